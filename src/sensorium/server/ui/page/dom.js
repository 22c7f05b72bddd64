// Nodes and their words. All that is shown goes in as text, never as markup.
import { ZH } from "./words.js";

export const find = (selector, within = document) => within.querySelector(selector);

export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function button(key, act, attributes = {}) {
  const node = make("button", { type: "button", ...attributes }, say(key));
  node.addEventListener("click", act);
  return node;
}

// ---- in English and Chinese: the English words are the keys

export const language = () => document.documentElement.lang;

// What is told by the server may be in no dictionary: it then stays as it is.
export function text(key, values) {
  const found = (language() === "zh" && Object.hasOwn(ZH, key) && ZH[key]) || key;
  if (!values) return found; // words of the server may have braces of their own
  return found.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export const say = (key, values) => put(make("span"), key, values);

// Words of the node from now on, in either language.
export function put(node, key, values) {
  node.dataset.say = key;
  if (values) node.dataset.values = JSON.stringify(values);
  else delete node.dataset.values;
  node.textContent = text(key, values);
  return node;
}

// Words of the server's: a name of its tasks or fields, with spaces; or its description, where it is known.
export const told = (key) => filled(say(key), { "data-told": true }, []);

const ATTRIBUTES = ["aria-label", "placeholder", "title"];

export function named(node, attribute, key) {
  node.setAttribute(`data-say-${attribute}`, key);
  node.setAttribute(attribute, text(key));
  return node;
}

export function speak(chosen) {
  document.documentElement.lang = chosen;
  for (const node of document.querySelectorAll("[data-say]")) {
    // The page as it is served has its English words only once.
    put(node, node.dataset.say || node.textContent, node.dataset.values && JSON.parse(node.dataset.values));
  }
  for (const attribute of ATTRIBUTES) {
    for (const node of document.querySelectorAll(`[data-say-${attribute}]`)) named(node, attribute, node.getAttribute(`data-say-${attribute}`));
  }
}

// ---- small things

// Words of the server's with `code` in them.
export const prose = (words) => words.split("`").map((part, place) => (place % 2 ? make("code", {}, part) : part));

export const prettified = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

export function copied(content) {
  const node = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(content());
      put(node.firstChild, "Copied");
    } catch {
      put(node.firstChild, "Copy it by hand");
    }
    setTimeout(() => put(node.firstChild, "Copy"), 2000);
  }, { class: "copy" });
  return node;
}

export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`;
}
