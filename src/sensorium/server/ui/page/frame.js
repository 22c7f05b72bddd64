// A picture with what an answer says of places in it. What is drawn is known by its shape, not by the task: `box`, `polygon`
// and `landmarks`, wherever they are.
import { make, say, shape } from "./dom.js";

const COLOURS = ["#d11149", "#0072b2", "#2f7d32", "#8e24aa", "#b45309", "#00695c"]; // white words can be read on each
const MOST = 2000; // marks; more would be a picture of nothing else
const CROWD = 10; // marks from which scores alone are told of what is pointed at
const DEEPEST = 12; // an answer is no deeper than a few parts within parts

export const isPlace = (point) => Array.isArray(point) && point.length === 2 && point.every(Number.isFinite);

function outlineOf(thing) {
  const { left, top, right, bottom } = thing.box || {};
  if ([left, top, right, bottom].every(Number.isFinite)) return [[left, top], [right, top], [right, bottom], [left, bottom]];
  return Array.isArray(thing.polygon) && thing.polygon.length > 2 && thing.polygon.every(isPlace) ? thing.polygon : null;
}

// Nothing is certain that is not: two digits of what is nearly nothing, and one more of what is nearly all.
export const percent = (value) => `${percents(value)} %`;

function percents(value) {
  if (value > 0 && value < 0.01) return Number((100 * value).toPrecision(2));
  if (value > 0.99 && value < 1) return Math.min(Math.round(1000 * value), 999) / 10;
  return Math.round(100 * value);
}

function captionOf(thing) {
  const name = [thing.name, thing.label, thing.text].find((one) => typeof one === "string") || "";
  const score = Number.isFinite(thing.score) && !thing.text ? percent(thing.score) : "";
  return [name, score].filter(Boolean).join(" ");
}

// Every mark of an answer, with the path to what it is a mark of, such as `objects.0`.
export function marksOf(answer) {
  const found = [];
  walk(answer, "", found, DEEPEST);
  return found;
}

function walk(thing, path, found, depth) {
  if (!thing || typeof thing !== "object" || found.length >= MOST || !depth) return;
  if (!Array.isArray(thing)) {
    const outline = outlineOf(thing);
    const dots = Object.values(thing.landmarks || {}).filter(isPlace);
    if (outline || dots.length) {
      found.push({ path, outline, dots, caption: captionOf(thing), kind: thing.name || thing.label || "", text: typeof thing.text === "string" ? thing.text : "" });
    }
  }
  for (const [name, inner] of Object.entries(thing)) {
    if (!["box", "polygon", "landmarks", "meta", "image"].includes(name)) walk(inner, path ? `${path}.${name}` : name, found, depth - 1);
  }
}

// ---- pictures in answers

const INLINE = /^data:image\/(png|jpeg|webp|gif|avif);base64,[\w+/=]+$/; // no SVG: it is a document

export const inline = (text) => (INLINE.test(text) ? text : null);

const KIND = /^image\/(png|jpeg|webp|gif|avif)$/;
const addresses = new WeakMap(); // of answers that are pictures
const gone = new FinalizationRegistry((address) => URL.revokeObjectURL(address));

// Where the browser finds the picture that an answer is: `data` in base64, with its `media_type`; null where it is none.
// Made once for an answer: a data URL would bring its megabytes into the page again with each drawing.
export function pictureOf(thing) {
  if (typeof thing?.data !== "string" || typeof thing.media_type !== "string" || !KIND.test(thing.media_type)) return null;
  if (!addresses.has(thing)) {
    const file = fileOf(thing);
    const address = file && URL.createObjectURL(file);
    addresses.set(thing, address);
    if (address) gone.register(thing, address);
  }
  return addresses.get(thing);
}

function fileOf({ data, media_type: type }) {
  try {
    const signs = atob(data);
    const bytes = new Uint8Array(signs.length);
    for (let place = 0; place < signs.length; place++) bytes[place] = signs.charCodeAt(place);
    return new Blob([bytes], { type });
  } catch {
    return null; // no base64
  }
}

const isSide = (value) => Number.isFinite(value) && value >= 1;
export const isSized = (thing) => isSide(thing?.image?.width) && isSide(thing?.image?.height);

// The parts of an answer that are about one picture each, in the order of the pictures.
export function scenesOf(answer, path = "", depth = DEEPEST) {
  if (!answer || typeof answer !== "object" || !depth) return [];
  if (isSized(answer)) return [{ answer, path }];
  return Object.entries(answer).flatMap(([name, inner]) => scenesOf(inner, path ? `${path}.${name}` : name, depth - 1));
}

// ---- drawing

// `scene` is the part of an answer that is about this picture, or null before there is one.
export function frame(picture, scene) {
  const node = make("div", { class: "frame", "data-picture": picture.id });
  const size = (width, height) => {
    node.style.setProperty("--w", width);
    node.style.setProperty("--h", height);
    node.classList.add("sized");
  };
  const given = scene && pictureOf(scene.answer);
  if (given) node.append(make("img", { src: given, alt: picture.name, draggable: "false" }));
  else node.append(picture.address ? shown(picture, size, !scene) : board(picture));
  if (scene) {
    const { width, height } = scene.answer.image;
    size(width, height);
    node.append(...drawn(marksOf(scene.answer), width, height, scene.path));
  } else if (!picture.address) size(4, 3);
  return node;
}

function shown(picture, size, measured) {
  // The same node wherever the picture is drawn anew, so that nothing flickers.
  const image = (picture.image ??= make("img", { src: picture.address, alt: picture.name, loading: "lazy", draggable: "false" }));
  const measure = () => measured && size(image.naturalWidth, image.naturalHeight);
  const fail = () => {
    image.replaceWith(board(picture));
    if (measured) size(4, 3);
  };
  if (image.naturalWidth) measure();
  else if (picture.broken) queueMicrotask(fail); // once it stands in its frame
  image.onload = measure;
  image.onerror = () => {
    picture.broken = true;
    fail();
  };
  return image;
}

// In place of a picture that the browser cannot show, or that is elsewhere.
function board(picture) {
  const why = picture.address ? "This browser cannot show this picture; the server may" : "Only the server fetches this picture; this page asks no one else";
  return make("div", { class: "board" }, make("bdi", {}, picture.name), say(why));
}

function drawn(marks, width, height, path) {
  const colours = new Map();
  const pen = shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-hidden": "true" });
  const captions = make("div", { class: `captions ${marks.length > CROWD ? "crowd" : ""}`, "aria-hidden": "true" });
  for (const mark of marks) {
    if (!colours.has(mark.kind)) colours.set(mark.kind, COLOURS[colours.size % COLOURS.length]);
    const colour = colours.get(mark.kind);
    const at = [path, mark.path].filter(Boolean).join(".");
    pen.append(outlined(mark, colour, at));
    if (mark.text) pen.append(written(mark, at));
    else if (mark.caption && mark.outline) captions.append(captioned(mark, colour, at, width, height));
  }
  return [pen, captions];
}

const line = (points) => points.map(([x, y], place) => `${place ? "L" : "M"}${x} ${y}`).join("") + "Z";

function outlined(mark, colour, at) {
  const group = shape("g", { class: "mark", "data-path": at });
  group.style.setProperty("--colour", colour);
  if (mark.outline) group.append(shape("path", { class: "halo", d: line(mark.outline) }), shape("path", { class: "line", d: line(mark.outline) }));
  // A line without length has round ends: a dot of the same size at any scale.
  for (const [x, y] of mark.dots) group.append(shape("path", { class: "dot under", d: `M${x} ${y}h0` }), shape("path", { class: "dot", d: `M${x} ${y}h0` }));
  if (mark.caption) group.append(shape("title", {}, mark.caption));
  return group;
}

// Words where they were read, as large and as slanted as they stand there.
function written({ outline, text }, at) {
  if (!outline || outline.length !== 4) return "";
  const [[x, y], [rightX, rightY], , [lowX, lowY]] = outline;
  const width = Math.hypot(rightX - x, rightY - y);
  const height = Math.hypot(lowX - x, lowY - y);
  if (!(width && height) || height > 1.5 * width) return ""; // from top to bottom: letters lying on their side help nobody
  const turn = (Math.atan2(rightY - y, rightX - x) * 180) / Math.PI;
  return shape("g", { class: "plate", "data-path": at, transform: `translate(${x} ${y}) rotate(${turn})` },
    shape("rect", { width, height }),
    shape("text", { x: width * 0.01, y: height * 0.78, "font-size": height * 0.78, textLength: width * 0.98, lengthAdjust: "spacingAndGlyphs" }, text));
}

function captioned(mark, colour, at, width, height) {
  const xs = mark.outline.map(([x]) => x);
  const top = Math.min(...mark.outline.map(([, y]) => y));
  const [left, right] = [Math.max(0, Math.min(...xs)), Math.min(width, Math.max(...xs))];
  const node = make("span", { "data-path": at, dir: "auto" }, mark.caption);
  node.style.setProperty("--colour", colour);
  node.classList.toggle("nameless", !mark.kind);
  node.classList.toggle("inside", top < 0.06 * height);
  node.classList.toggle("ending", left > 0.65 * width); // a caption that would not fit to the right of the left edge
  node.style.setProperty("--x", left > 0.65 * width ? 1 - right / width : left / width);
  node.style.setProperty("--y", Math.max(0, top) / height);
  return node;
}

// ---- what is pointed at is lit wherever it stands: in the picture and in the table

export function light(root, path, on) {
  for (const node of root.querySelectorAll("[data-path]")) if (node.dataset.path === path) node.classList.toggle("on", on);
}

export function linked(root) {
  const point = (on) => (event) => {
    const node = event.target.closest?.("[data-path]");
    if (node) light(root, node.dataset.path, on);
  };
  root.addEventListener("pointerover", point(true));
  root.addEventListener("pointerout", point(false));
}
