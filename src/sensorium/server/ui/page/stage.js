// The pictures with what was seen in them: one large, several as a grid.
import { button, find, make } from "./dom.js";
import { frame, pictureOf, scenesOf } from "./frame.js";
import { madeOf } from "./names.js";
import { brief, saving } from "./results.js";

// `shown` is what the main view knows; `acts` has `open(id)`, `step(by)` and `remove(picture)`.
export function drawStage(stage, shown, acts) {
  const { pictures, open } = shown;
  const one = pictures.find((picture) => picture.id === open) || (pictures.length === 1 ? pictures[0] : null);
  stage.classList.toggle("several", !one && pictures.length > 0);
  stage.empty ??= find("#empty", stage);
  if (!pictures.length) stage.replaceChildren(stage.empty);
  else if (one) stage.replaceChildren(frame(one, sceneOf(one, shown)), corner(one, shown, acts));
  else stage.replaceChildren(make("ul", { class: "grid" }, pictures.map((picture) => cellOf(picture, shown, acts))));
}

// What became of one picture of the grid, while others are waited for.
export function drawCell(stage, picture, shown, acts) {
  find(`[data-cell="${picture.id}"]`, stage)?.replaceWith(cellOf(picture, shown, acts));
}

export const focusCell = (stage, id) => find(`[data-cell="${id}"] .cell`, stage)?.focus({ preventScroll: true });

function corner(picture, shown, { open, step }) {
  const scene = sceneOf(picture, shown);
  const given = scene && pictureOf(scene.answer);
  return make("div", { class: "corner" },
    given && saving(given, scene.answer, madeOf(picture, shown.task)),
    shown.pictures.length > 1 && [button("Earlier", () => step(-1)), button("Next", () => step(1)), button("All", () => open(null), { id: "all" })]);
}

function cellOf(picture, shown, { open, remove }) {
  const became = shown.outcomes.get(picture.id);
  const name = make("bdi", {}, picture.name);
  const cell = make("button", { type: "button", class: "cell", "aria-label": picture.name }, frame(picture, sceneOf(picture, shown)));
  cell.addEventListener("click", () => open(picture.id));
  const sign = became && make("span", { class: became.error ? "sign wrong" : "sign right" }, became.error ? "!" : "✓");
  const away = make("button", { type: "button", class: "away", "aria-label": `× ${picture.name}` }, "×");
  away.addEventListener("click", () => remove(picture));
  return make("li", { "data-cell": picture.id }, cell, make("p", {}, sign, became ? brief(became) || name : name), away);
}

// The part of an answer that is about this picture.
function sceneOf(picture, { pictures, outcomes, whole }) {
  const own = outcomes.get(picture.id)?.result;
  if (own) return scenesOf(own)[0] || null;
  return whole?.result ? scenesOf(whole.result)[pictures.indexOf(picture)] || null : null;
}
