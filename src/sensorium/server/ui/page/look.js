// The main view: pictures, a task, and what comes of it.
import { askAloud, askAtOnce, askForJob, partsOf } from "./asking.js";
import { curl, python } from "./code.js";
import { button, find, make, prettified, put, say, told } from "./dom.js";
import { controlOf, isLong } from "./forms.js";
import { frame, linked, scenesOf } from "./frame.js";
import { keep, kept } from "./kept.js";
import { forget, receive } from "./pictures.js";
import { answerView, brief, errorView, showsCommands, tabbed } from "./results.js";
import { Refusal } from "./server.js";

const LARGE = 20; // pictures from which a job is the better way
const MOST_SHOWN = 2; // small fields of a task that are shown at once

const state = {
  tasks: [], models: [], task: null, controls: [], pictures: [], outcomes: new Map(), whole: null, open: null, leaving: null, job: false,
};
// `outcomes`: what became of each picture, by its id; `whole`: the answer to all of them together, or without any.

let stage, form, outcome, status, go, stop, together, later, said;

export function start() {
  [stage, form, outcome] = ["#stage", "#task", "#outcome"].map((one) => find(one));
  receive(add);
  find("#clear").addEventListener("click", clear);
  find("#captions").addEventListener("change", (event) => stage.classList.toggle("bare", !event.target.checked));
  document.addEventListener("keydown", keys);
  linked(find("#look"));
}

export function offer(tasks, models) {
  Object.assign(state, { tasks, models });
  find("#loading").hidden = true;
  const remembered = tasks.find((task) => task.name === kept("sessionStorage", "sensorium-task"));
  form.hidden = false;
  drawForm(remembered || tasks.find((task) => task.name === "analyze") || tasks[0]);
}

// ---- the task and its form

function drawForm(task) {
  state.task = task;
  keep("sessionStorage", "sensorium-task", task.name);
  const usable = state.models.filter((one) => one.name && ["ready", "loaded"].includes(one.state));
  const modelsHere = usable.filter((one) => one.tasks.includes(task.name) || one.tasks.includes("*")).map((one) => one.name);
  state.controls = task.fields.map((field) => controlOf(field, [...new Set(modelsHere)]));
  const own = state.controls.filter(({ field }) => !field.shared);
  const first = [...own.filter(({ field }) => isLong(field)).slice(0, 1), ...own.filter(({ field }) => isSmall(field)).slice(0, MOST_SHOWN)];
  const rest = state.controls.filter((control) => !first.includes(control));
  go = make("button", { class: "main", id: "go" }, say("Look"));
  stop = button("Stop", () => state.leaving?.abort(), { id: "stop", disabled: true });
  together = tickOf("together", "All pictures in one question", true);
  later = tickOf("later", "As a job, which goes on without this page", false);
  status = make("p", { id: "status", role: "status" });
  form.replaceChildren(
    chooser(task),
    make("p", { class: "summary" }, told(task.summary)),
    ...first.map(({ node }) => node),
    rest.length ? make("details", { class: "more" }, make("summary", {}, say("More settings")), rest.map(({ node }) => node)) : "",
    together.node, later.node,
    make("div", { class: "buttons" }, go, stop), status,
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    run();
  };
  form.oninput = () => showsCommands() && drawOutcome();
  form.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  changed();
}

// Numbers and choices; words that may be left out are not looked for at once.
const isSmall = (field) => field.required || Boolean(field.enum || field.items?.enum) || ["boolean", "integer", "number"].includes(field.type);

function tickOf(id, key, checked) {
  const box = make("input", { type: "checkbox", id });
  box.checked = checked;
  return { box, node: make("div", { class: "field check" }, box, make("label", { for: id }, say(key))) };
}

function chooser(current) {
  const node = make("fieldset", { class: "tasks" }, make("legend", {}, say("What to do")), state.tasks.map((task) => {
    const radio = make("input", { type: "radio", name: "task", value: task.name, id: `task-${task.name}`, checked: task === current });
    radio.addEventListener("change", () => {
      leave();
      clearOutcomes();
      drawForm(task);
      find(`#task-${task.name}`).focus();
    });
    return [radio, make("label", { for: `task-${task.name}` }, told(prettified(task.name)))];
  }));
  return node;
}

// ---- pictures

// Those that have been looked at make room for what comes, unless the task needs more than there are.
function add(pictures) {
  leave();
  const wanted = state.pictures.length < (state.task?.least ?? 0);
  const old = wanted ? [] : state.pictures.filter((picture) => picture.looked);
  old.forEach(forget);
  state.pictures = [...state.pictures.filter((picture) => !old.includes(picture)), ...pictures];
  if (location.hash && location.hash !== "#look") location.hash = "#look";
  clearOutcomes();
  changed();
  go?.focus({ preventScroll: true });
}

function remove(picture) {
  leave();
  forget(picture);
  state.pictures = state.pictures.filter((one) => one !== picture);
  state.outcomes.delete(picture.id);
  state.whole = null;
  changed();
}

function clear() {
  leave();
  state.pictures.forEach(forget);
  state.pictures = [];
  clearOutcomes();
  changed();
  find("#files").focus();
}

function clearOutcomes() {
  Object.assign(state, { whole: null, open: null });
  state.outcomes.clear();
}

// What is under way is wanted no more.
function leave() {
  state.leaving?.abort();
  resting();
}

function resting() {
  state.leaving = said = null;
  if (stop) stop.disabled = true;
  go?.classList.remove("busy");
}

function changed() {
  const { task, pictures } = state;
  if (!task) return drawStage();
  const several = pictures.length > 1;
  const both = several && task.singles.length === 1 && task.list;
  together.node.hidden = !both;
  later.node.hidden = !(several && !(both ? together.box.checked : isOne()));
  together.box.onchange = changed;
  if (pictures.length >= LARGE && !later.node.hidden && !later.box.dataset.offered) {
    later.box.checked = true;
    later.box.dataset.offered = "true";
  }
  drawStage();
  drawOutcome();
}

// Whether all pictures belong to one request.
function isOne() {
  const { task, pictures } = state;
  if (pictures.length < 2) return true;
  if (task.singles.length === 1 && task.list) return together.box.checked;
  return task.singles.length !== 1;
}

// ---- the stage

function drawStage() {
  const { pictures, open } = state;
  find("#clear").disabled = !pictures.length;
  const shown = pictures.find((one) => one.id === open) || (pictures.length === 1 ? pictures[0] : null);
  stage.classList.toggle("several", !shown && pictures.length > 0);
  const kept = find("#empty", stage) || stage.empty;
  stage.empty = kept;
  if (!pictures.length) return stage.replaceChildren(kept);
  if (!shown) return stage.replaceChildren(make("ul", { class: "grid" }, pictures.map(cellOf)));
  const tools = make("div", { class: "corner" },
    pictures.length > 1 && [button("Earlier", () => step(-1)), button("Next", () => step(1)), button("All", () => openOne(null), { id: "all" })],
    pictures.length === 1 && button("Remove", () => remove(shown)));
  stage.replaceChildren(frameOf(shown), tools);
}

function cellOf(picture) {
  const became = state.outcomes.get(picture.id);
  const name = make("bdi", {}, picture.name);
  const open = make("button", { type: "button", class: "cell", "aria-label": picture.name }, frameOf(picture));
  open.addEventListener("click", () => openOne(picture.id));
  const sign = became && make("span", { class: became.error ? "sign wrong" : "sign right" }, became.error ? "!" : "✓");
  const caption = make("p", {}, sign, became ? brief(became) || name : name);
  const away = make("button", { type: "button", class: "away", "aria-label": `× ${picture.name}` }, "×");
  away.addEventListener("click", () => remove(picture));
  return make("li", { "data-cell": picture.id }, open, caption, away);
}

function sceneOf(picture) {
  const became = state.outcomes.get(picture.id);
  if (became?.result) return scenesOf(became.result)[0] || null;
  return state.whole?.result ? scenesOf(state.whole.result)[state.pictures.indexOf(picture)] || null : null;
}

const frameOf = (picture) => frame(picture, sceneOf(picture));

function openOne(id) {
  const before = state.open;
  state.open = id;
  drawStage();
  drawOutcome();
  (id === null ? find(`[data-cell="${before}"] .cell`, stage) : find("#all", stage))?.focus({ preventScroll: true });
}

function step(by) {
  const at = state.pictures.findIndex((one) => one.id === state.open);
  openOne(state.pictures[(at + by + state.pictures.length) % state.pictures.length].id);
}

function keys(event) {
  if (find("#look").hidden || event.target.closest?.("input, textarea, select, dialog[open], [role=tablist]")) return;
  const opened = state.pictures.length > 1 && state.open !== null;
  if (event.key === "Escape" && state.leaving) state.leaving.abort();
  else if (event.key === "Escape" && opened) openOne(null);
  else if (opened && event.key === "ArrowRight") step(1);
  else if (opened && event.key === "ArrowLeft") step(-1);
}

// ---- the outcome

function drawOutcome() {
  if (state.leaving && said) return; // words are coming
  const became = state.whole || (state.pictures.length === 1 ? state.outcomes.get(state.pictures[0].id) : state.outcomes.get(state.open));
  const all = !became && state.outcomes.size > 0;
  if (!became && !all && !state.task) return outcome.replaceChildren();
  outcome.replaceChildren(tabbed(all ? summaryOfAll() : became ? viewOf(became) : null, commands()));
}

function viewOf({ result, error, heard }) {
  if (!error) return { node: answerView(result), value: result };
  return { node: make("div", {}, heard && make("p", { class: "said broken", dir: "auto" }, heard), errorView(error)), value: { error: { code: error.code, message: error.message, trace: error.trace } } };
}

function summaryOfAll() {
  const outcomes = state.pictures.map((picture) => [picture, state.outcomes.get(picture.id)]);
  const rows = outcomes.map(([picture, became]) => {
    const open = make("button", { type: "button", class: "plain" }, make("bdi", {}, picture.name));
    open.addEventListener("click", () => openOne(picture.id));
    return make("tr", {}, make("td", {}, open), make("td", {}, became ? (became.error ? told(became.error.message) : brief(became) || say("done")) : say("waiting")));
  });
  const node = make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("tbody", {}, rows)));
  return { node, value: { results: outcomes.map(([, became]) => became?.result ?? (became?.error && { error: { code: became.error.code, message: became.error.message } }) ?? null) } };
}

// ---- asking

// The values that differ from what the server has anyway; raises for JSON that is none.
function values() {
  const pairs = state.controls.map((control) => [control, control.value()]);
  return Object.fromEntries(pairs.filter(([, value]) => value !== undefined).map(([{ name }, value]) => [name, value]));
}

const parts = () => partsOf(state.task, state.pictures, isOne());

function commands() {
  try {
    return { curl: curl(state.task.path, parts(), values()), python: python(state.task, parts().map(([, picture]) => picture), isOne(), values()) };
  } catch (error) {
    return { curl: error.message, python: error.message };
  }
}

async function run() {
  leave();
  const { task, pictures } = state;
  if (pictures.length < task.least) return tell(task.least > 1 ? "Add {count} pictures first." : "Add a picture first.", { count: task.least }, "wrong");
  const leaving = (state.leaving = new AbortController());
  for (const picture of pictures) picture.looked = true;
  state.job = false;
  clearOutcomes();
  drawStage();
  drawOutcome();
  stop.disabled = false;
  go.classList.add("busy");
  tell("Waiting for the answer…");
  const begun = performance.now();
  const failure = await asked(task, leaving.signal).then(() => null, (error) => error);
  if (state.leaving !== leaving) return; // something else was begun
  if (failure) failed(failure, leaving.signal);
  else tell("Answered after {seconds} s", { seconds: ((performance.now() - begun) / 1000).toFixed(2) }, "right");
  resting();
  drawStage();
  drawOutcome();
}

async function asked(task, signal) {
  const order = parts();
  if (!isOne() && later.box.checked) return askForJob(task, order, values(), { signal, ...tellingOfJob(order, signal) });
  if (isOne() && task.says) return settle(order, await askAloud(task, order, values(), { signal, ...tellingOfWords() }), signal);
  return settle(order, await askAtOnce(task, order, values(), signal), signal);
}

function settle(order, answer, signal) {
  if (signal.aborted) return;
  if (isOne()) state.whole = { result: answer };
  else order.forEach(([, picture], place) => state.outcomes.set(picture.id, answer.results[place]));
}

const connection = {
  lost: (tries) => tell("The connection broke. Coming back… ({tries})", { tries }, "wrong"),
  found: () => tell("Connected again."),
};

function tellingOfWords() {
  said = make("p", { class: "said", dir: "auto" });
  outcome.replaceChildren(make("div", { class: "answer live" }, said));
  const hear = (kind, data) => {
    if (kind === "delta") said.append(data.text);
    else if (kind === "progress") tell("{done} of {total}", data);
  };
  return { hear, ...connection };
}

function tellingOfJob(order, signal) {
  const progress = ({ settled, total }) => tell("{done} of {total}", { done: settled, total });
  const begun = (job) => {
    state.job = true;
    progress(job.progress);
  };
  const item = ({ index, result, error }) => {
    const picture = order[index]?.[1];
    if (!picture || signal.aborted) return;
    state.outcomes.set(picture.id, result ? { result } : { error });
    if (state.open === picture.id) openOne(picture.id);
    else find(`[data-cell="${picture.id}"]`, stage)?.replaceWith(cellOf(picture));
  };
  return { begun, item, progress, ...connection };
}

function tell(key, given, kind = "") {
  status.className = kind;
  put(status, key, given);
}

function failed(error, signal) {
  if (signal.aborted) {
    tell(state.job ? "It goes on without you: see Jobs." : "Stopped.");
    if (said?.textContent) state.whole = { error: { message: "Stopped before the end." }, heard: said.textContent };
    return;
  }
  tell("No answer.", {}, "wrong");
  if (error.results) return parts().forEach(([, picture], place) => state.outcomes.set(picture.id, error.results[place]));
  const known = error instanceof Refusal || error instanceof SyntaxError;
  state.whole = { error: known ? error : { message: "The server cannot be reached. Does it still run?" }, heard: said?.textContent };
}
