// The pictures that are looked at: dropped, pasted, chosen, taken with the camera, or named by a URL.
import { find, put } from "./dom.js";

const PICTURE = /^image\//;
const PICTURE_NAME = /\.(jpe?g|jfif|png|gif|webp|bmp|tiff?|avif|heic|heif|ico|ppm|pgm|tga)$/i;

let count = 0;

// `address` is where the browser finds it; a picture elsewhere has none, for this page asks no other server.
export function ofFile(file) {
  return { id: ++count, name: file.name || "picture.png", file, url: null, address: URL.createObjectURL(file) };
}

export function ofUrl(url) {
  return { id: ++count, name: url, file: null, url, address: null };
}

export function forget(picture) {
  if (picture.address) URL.revokeObjectURL(picture.address);
}

// A text as a picture's URL; data URLs become files, since their bytes are here.
async function ofText(text) {
  if (/^data:image\/[\w.+-]+[;,]/i.test(text)) return ofFile(fileOf(text));
  return /^https?:\/\/[^\s/]+\S*$/i.test(text) ? ofUrl(text) : null;
}

function fileOf(dataUrl) {
  const [, kind, coded, data] = /^data:([\w/.+-]+)(?:;[^,;]*)*?(;base64)?,(.*)$/is.exec(dataUrl);
  const bytes = coded ? Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0)) : new TextEncoder().encode(decodeURIComponent(data));
  return new File([bytes], `picture.${kind.split("/")[1].replace(/\W.*/, "")}`, { type: kind });
}

const pictured = (files) => [...files].filter((file) => PICTURE.test(file.type) || PICTURE_NAME.test(file.name));

// What was dropped or pasted.
async function carried(transfer) {
  const files = pictured(transfer.files);
  if (files.length) return files.map(ofFile);
  const words = (transfer.getData("text/uri-list") || transfer.getData("text/plain")).split("\n").map((line) => line.trim());
  const found = await Promise.all(words.filter((line) => line && !line.startsWith("#")).map((line) => ofText(line).catch(() => null)));
  return found.filter(Boolean);
}

// Calls `add` with the pictures that come, whichever way, and `tell` when something else came.
export function receive(add, tell) {
  const stage = find("#stage");
  const give = (pictures) => (pictures.length ? add(pictures) : tell("That is no picture, and no URL of one."));

  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser would leave the page for a picture that is dropped beside the stage
    stage.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    give(await carried(event.dataTransfer));
  });
  document.addEventListener("paste", async (event) => {
    if (!event.clipboardData || event.target.closest("input, textarea, dialog")) return;
    give(await carried(event.clipboardData));
  });
  find("#empty").addEventListener("click", () => find("#files").click());
  find("#files").addEventListener("change", (event) => {
    if (event.target.files.length) give([...event.target.files].map(ofFile));
    event.target.value = "";
  });
  find("#link").addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = find("#address");
    const picture = await ofText(field.value.trim()).catch(() => null);
    give(picture ? [picture] : []);
    if (picture) field.value = "";
  });
  camera(give);
}

// ---- the camera

function camera(give) {
  const dialog = find("#camera-dialog");
  const video = find("video", dialog);
  const why = find(".wrong", dialog);
  const [take, cancel] = dialog.querySelectorAll("button");
  const start = find("#camera");
  start.hidden = !navigator.mediaDevices?.getUserMedia; // browsers have none for pages that came without encryption

  start.addEventListener("click", async () => {
    put(why, "");
    take.disabled = true;
    dialog.showModal();
    try {
      const wide = { width: { ideal: 1920 }, height: { ideal: 1080 }, facingMode: "environment" };
      const stream = await navigator.mediaDevices.getUserMedia({ video: wide });
      if (!dialog.open) return stop(stream);
      video.srcObject = stream;
      await video.play();
      take.disabled = false;
    } catch (error) {
      if (dialog.open) put(why, "The camera cannot be used: {why}", { why: error.message });
    }
  });
  take.addEventListener("click", async () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const file = new File([await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 })], "camera.jpg", { type: "image/jpeg" });
    dialog.close();
    give([ofFile(file)]);
  });
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    stop(video.srcObject);
    video.srcObject = null;
  });
}

function stop(stream) {
  for (const track of stream?.getTracks() || []) track.stop();
}
