// The main view: pictures, a task, and what comes of it.
import { askAloud, askAtOnce, askForJob, partsOf } from "./asking.js";
import { curl, python } from "./code.js";
import { find, make, put, say, text, told } from "./dom.js";
import { drawForm } from "./form.js";
import { linked, scenesOf } from "./frame.js";
import { keep, kept } from "./kept.js";
import { forget, receive } from "./pictures.js";
import { answerView, brief, errorView, showsCommands, tabbed } from "./results.js";
import { Refusal } from "./server.js";
import { drawCell, drawStage, focusCell } from "./stage.js";

const LARGE = 20; // pictures from which a job is the better way
const NOTHING = { error: { code: "not_understood", message: "What came back is no answer of this server. Does something stand before it?" } };

const state = {
  tasks: [], models: [], task: null, pictures: [], outcomes: new Map(), whole: null, open: null, leaving: null, job: false,
};
// `outcomes`: what became of each picture, by its id; `whole`: the answer to all of them together, or without any.

let stage, outcome; // nodes
let form; // of the task, once there is one
let said; // the words of an answer that is coming

export function start() {
  [stage, outcome] = ["#stage", "#outcome"].map((one) => find(one));
  receive(add, (key) => tell(key, {}, "wrong"));
  find("#clear").addEventListener("click", clear);
  find("#captions").addEventListener("change", (event) => stage.classList.toggle("bare", !event.target.checked));
  document.addEventListener("keydown", keys);
  linked(find("#look"));
}

export function offer(tasks, models) {
  if (!tasks.length) throw new Error(text("it has no tasks"));
  Object.assign(state, { tasks, models });
  find("#loading").hidden = true;
  const remembered = tasks.find((task) => task.name === kept("sessionStorage", "sensorium-task"));
  find("#task").hidden = false;
  choose(remembered || tasks.find((task) => task.name === "analyze") || tasks[0]);
}

// ---- the task

function choose(task) {
  state.task = task;
  keep("sessionStorage", "sensorium-task", task.name);
  form = drawForm(find("#task"), task, state, {
    choose: another,
    run,
    stop: () => state.leaving?.abort(),
    changed: () => showsCommands() && drawOutcome(),
  });
  form.together.box.onchange = changed;
  changed();
}

function another(task) {
  leave();
  clearOutcomes();
  choose(task);
  find(`#task-${task.name}`).focus();
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
  form?.go.focus({ preventScroll: true });
}

function remove(picture) {
  leave();
  forget(picture);
  state.pictures = state.pictures.filter((one) => one !== picture);
  state.outcomes.delete(picture.id);
  state.whole = null;
  tell("");
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
  tell("");
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
  if (!form) return;
  form.stop.disabled = true;
  form.go.classList.remove("busy");
}

function changed() {
  const { task, pictures } = state;
  if (!task) return draw();
  const several = pictures.length > 1;
  const both = several && task.singles.length === 1 && task.list;
  form.together.node.hidden = !both;
  form.later.node.hidden = !(several && !(both ? form.together.box.checked : isOne()));
  if (pictures.length >= LARGE && !form.later.node.hidden && !form.later.box.dataset.offered) {
    form.later.box.checked = true;
    form.later.box.dataset.offered = "true";
  }
  draw();
  drawOutcome();
}

// Whether all pictures belong to one request.
function isOne() {
  const { task, pictures } = state;
  if (pictures.length < 2) return true;
  if (task.singles.length === 1 && task.list) return form.together.box.checked;
  return task.singles.length !== 1;
}

// ---- the stage

const acts = { open: openOne, step, remove };

function draw() {
  find("#clear").disabled = !state.pictures.length;
  drawStage(stage, state, acts);
}

function openOne(id) {
  const before = state.open;
  state.open = id;
  draw();
  drawOutcome();
  if (id === null) focusCell(stage, before);
  else find("#all", stage)?.focus({ preventScroll: true });
}

function step(by) {
  const at = state.pictures.findIndex((one) => one.id === state.open);
  openOne(state.pictures[(at + by + state.pictures.length) % state.pictures.length].id);
}

function keys(event) {
  if (find("#look").hidden || event.isComposing || event.target.closest?.("dialog[open]")) return;
  if (event.key === "Escape" && state.leaving) return state.leaving.abort();
  if (event.target.closest?.("input, textarea, select, [role=tablist]")) return;
  const opened = state.pictures.length > 1 && state.open !== null;
  if (event.key === "Escape" && opened) openOne(null);
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
  if (!error) {
    const drawn = scenesOf(result).slice(0, state.pictures.length).map((scene) => scene.answer);
    return { node: () => answerView(result, { drawn, meanings: state.task.meanings }), value: result };
  }
  const node = () => make("div", {}, heard && make("p", { class: "said broken", dir: "auto" }, heard), errorView(error));
  return { node, value: { error: { code: error.code, message: error.message, trace: error.trace } } };
}

function summaryOfAll() {
  const outcomes = state.pictures.map((picture) => [picture, state.outcomes.get(picture.id)]);
  const row = ([picture, became]) => {
    const open = make("button", { type: "button", class: "plain" }, make("bdi", {}, picture.name));
    open.addEventListener("click", () => openOne(picture.id));
    return make("tr", {}, make("td", {}, open), make("td", {}, became ? (became.error ? told(became.error.message) : brief(became) || say("done")) : state.leaving && say("waiting")));
  };
  const node = () => make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("tbody", {}, outcomes.map(row))));
  return { node, value: { results: outcomes.map(([, became]) => became?.result ?? (became?.error && { error: { code: became.error.code, message: became.error.message } }) ?? null) } };
}

// ---- asking

const parts = () => partsOf(state.task, state.pictures, isOne());

function commands() {
  try {
    const [order, together, values] = [parts(), isOne(), form.values()];
    return { curl: curl(state.task, order, together, values), python: python(state.task, order.map(([, picture]) => picture), together, values) };
  } catch (error) {
    return { curl: error.message, python: error.message };
  }
}

async function run() {
  leave();
  const { task, pictures } = state;
  if (pictures.length > task.most) return tell("This takes {count} pictures. Remove the others.", { count: task.most }, "wrong");
  if (pictures.length < task.least) return tell(task.least > 1 ? "Add {count} pictures first." : "Add a picture first.", { count: task.least }, "wrong");
  const leaving = (state.leaving = new AbortController());
  for (const picture of pictures) picture.looked = true;
  state.job = false;
  clearOutcomes();
  draw();
  drawOutcome();
  form.stop.disabled = false;
  form.go.classList.add("busy");
  tell("Waiting for the answer…");
  const begun = performance.now();
  const order = parts();
  const failure = await asked(task, order, leaving.signal).then(() => null, (error) => error);
  if (state.leaving !== leaving) return; // something else was begun
  if (failure) failed(failure, order, leaving.signal);
  else tell("Answered after {seconds} s", { seconds: ((performance.now() - begun) / 1000).toFixed(2) }, "right");
  resting();
  draw();
  drawOutcome();
  reveal();
}

// On a narrow screen what came may be out of sight: places in pictures are above the form, words below it.
function reveal() {
  if (!matchMedia("(max-width: 60rem)").matches) return;
  const isDrawn = find(".mark, .corner a", stage) && !state.whole?.result?.text && !state.whole?.error;
  (isDrawn ? stage : outcome).scrollIntoView({ block: "nearest" });
}

async function asked(task, order, signal) {
  const one = isOne(); // as it is now: the tick may change while the answer is waited for
  if (!one && form.later.box.checked) return askForJob(task, order, form.values(), { signal, ...tellingOfJob(order, signal) });
  const answer = one && task.says
    ? await askAloud(task, order, form.values(), { signal, ...tellingOfWords() })
    : await askAtOnce(task, order, form.values(), signal, one);
  if (signal.aborted) return;
  if (one) state.whole = { result: answer };
  else order.forEach(([, picture], place) => state.outcomes.set(picture.id, answer.results[place] || NOTHING));
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
    state.outcomes.set(picture.id, result || error ? { result, error } : NOTHING);
    if (state.open === null) drawCell(stage, picture, state, acts);
    else if (state.open === picture.id) changed();
  };
  return { begun, item, progress, ...connection };
}

function tell(key, given, kind = "") {
  if (!form) return;
  form.status.className = kind;
  put(form.status, key, given);
}

function failed(error, order, signal) {
  if (signal.aborted) {
    tell(state.job ? "It goes on without you: see Jobs." : "Stopped.");
    if (said?.textContent) state.whole = { error: { message: "Stopped before the end." }, heard: said.textContent };
    return;
  }
  tell("No answer.", {}, "wrong");
  if (error.results) return order.forEach(([, picture], place) => state.outcomes.set(picture.id, error.results[place] || NOTHING));
  const known = error instanceof Refusal || error instanceof SyntaxError;
  state.whole = { error: known ? error : { message: "The server cannot be reached. Does it still run?" }, heard: said?.textContent };
}
