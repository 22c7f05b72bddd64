// The page at `/`. Nothing on it comes from another server, and everything that it shows goes in as text.
import { find, language, put, speak, text } from "./dom.js";
import * as jobs from "./jobs.js";
import { keep } from "./kept.js";
import * as look from "./look.js";
import { json, key, news, useKey } from "./server.js";
import * as status from "./status.js";
import { understand } from "./tasks.js";

const VIEWS = { look: { show() {}, hide() {} }, jobs, server: status };
let current = null;

function turn() {
  const name = Object.hasOwn(VIEWS, location.hash.slice(1)) ? location.hash.slice(1) : "look";
  if (name === current) return;
  if (current) VIEWS[current].hide();
  for (const one of Object.keys(VIEWS)) find(`#${one}`).hidden = one !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  current = name;
  VIEWS[name].show(find(`#${name}`));
}

function tools() {
  const root = document.documentElement;
  find("#theme").addEventListener("click", () => {
    const systemIsDark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = root.dataset.theme || (systemIsDark ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    root.dataset.theme = next === (systemIsDark ? "dark" : "light") ? "" : next;
    keep("localStorage", "sensorium-theme", root.dataset.theme);
  });
  find("#language").addEventListener("click", () => {
    speak(language() === "zh" ? "en" : "zh");
    keep("localStorage", "sensorium-language", language());
    other();
  });
}

function other() {
  const node = find("#language");
  node.textContent = language() === "zh" ? "English" : "中文";
  node.lang = language() === "zh" ? "en" : "zh";
}

function keys() {
  const dialog = find("#key-dialog");
  const field = find("#key-field");
  const open = (asked) => {
    if (dialog.open) return;
    put(find("#key-why"), asked ? "This server asks for a key. It is kept until this tab is closed." : "Only for a server that asks for one. It is kept until this tab is closed.");
    field.value = key();
    dialog.showModal();
    field.select();
  };
  find("#key").addEventListener("click", () => open(false));
  news.addEventListener("key", () => open(true));
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "use") {
      useKey(field.value.trim());
      load();
      if (current !== "look") {
        VIEWS[current].hide();
        VIEWS[current].show(find(`#${current}`));
      }
    }
    field.value = dialog.returnValue = "";
  });
}

async function load() {
  const loading = find("#loading");
  try {
    const tasks = understand(await json("/openapi.json"));
    const { models } = await json("/v1/models").catch(() => ({ models: [] }));
    look.offer(tasks, models);
  } catch (error) {
    loading.hidden = false;
    put(loading, "The server did not say what it can do: {why}", { why: error.message || text("no reason") });
  }
}

look.start();
tools();
keys();
speak(language());
other();
addEventListener("hashchange", turn);
turn();
load();
