// The main view: pictures, a task, and what comes of it.
import { button, find, make, prettified, put, say, told } from "./dom.js";
import { curl, python } from "./code.js";
import { asText, controlOf, isLong } from "./forms.js";
import { frame, linked, scenesOf } from "./frame.js";
import { keep, kept } from "./kept.js";
import { forget, receive } from "./pictures.js";
import { answerView, brief, errorView, showsCommands, tabbed } from "./results.js";
import { Refusal, ask, json } from "./server.js";
import { follow } from "./streams.js";
import { watched } from "./watch.js";

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

// Each picture with the field that it goes into. Files come first, for so the server takes them.
function parts() {
  const { task, pictures } = state;
  if (!task.singles.length && !task.list) return [];
  const sorted = pictures.toSorted((one, other) => Boolean(other.file) - Boolean(one.file));
  if (!isOne()) return sorted.map((picture) => [task.singles[0], picture]);
  return pictures.map((picture, place) => [task.singles[place] || task.list || task.singles[0], picture]);
}

function bodyOf(more) {
  const body = new FormData();
  for (const [field, picture] of parts()) body.append(field, ...(picture.file ? [picture.file, picture.name] : [picture.url]));
  for (const [name, value] of Object.entries({ ...values(), ...more })) body.append(name, asText(value));
  return body;
}

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
  state.job = false;
  clearOutcomes();
  drawStage();
  drawOutcome();
  stop.disabled = false;
  go.classList.add("busy");
  tell("Waiting for the answer…");
  const begun = performance.now();
  for (const picture of pictures) picture.looked = true;
  try {
    if (!isOne() && later.box.checked) await runJob(leaving.signal);
    else if (!isOne()) await runList(leaving.signal);
    else if (task.says) await runStream(leaving.signal);
    else became(await json(task.path, { method: "POST", body: bodyOf({}), signal: leaving.signal }));
    if (state.leaving === leaving) tell("Answered after {seconds} s", { seconds: ((performance.now() - begun) / 1000).toFixed(2) }, "right");
  } catch (error) {
    if (state.leaving === leaving) failed(error, leaving.signal);
  } finally {
    if (state.leaving === leaving) {
      resting();
      drawStage();
      drawOutcome();
    }
  }
}

function tell(key, given, kind = "") {
  status.className = kind;
  put(status, key, given);
}

function became(result) {
  state.whole = { result };
}

function failed(error, signal) {
  if (signal.aborted) {
    tell(state.job ? "It goes on without you: see Jobs." : "Stopped.");
    if (said?.textContent) state.whole = { error: { message: "Stopped before the end.", code: "" }, heard: said.textContent };
    return;
  }
  tell("No answer.", {}, "wrong");
  if (error.results) return settleAll(error.results);
  const known = error instanceof Refusal || error instanceof SyntaxError;
  state.whole = { error: known ? error : { message: "The server cannot be reached. Does it still run?", code: "" }, heard: said?.textContent };
}

async function runList(signal) {
  const { results } = await json(state.task.path, { method: "POST", body: bodyOf({}), signal });
  settleAll(results);
}

function settleAll(results) {
  parts().forEach(([, picture], place) => state.outcomes.set(picture.id, results[place]));
}

async function runStream(signal) {
  const { path } = state.task;
  let identity = "";
  let asked = false;
  said = make("p", { class: "said", dir: "auto" });
  signal.addEventListener("abort", () => {
    if (identity && asked) ask(`/v1/streams/${identity}`, { method: "DELETE", keepalive: true }).catch(() => {});
  });
  outcome.replaceChildren(make("div", { class: "answer live" }, said));
  let failure = null;
  await follow({
    signal,
    first: (inner) => ask(path, { method: "POST", body: bodyOf({ stream: true }), headers: { Accept: "text/event-stream" }, signal: inner }),
    again: (last, inner) => ask(`/v1/streams/${identity}`, { headers: { "Last-Event-ID": last }, signal: inner }),
    lost: (tries) => tell("The connection broke. Coming back… ({tries})", { tries }, "wrong"),
    found: () => tell("Connected again."),
    hear(kind, data) {
      asked = kind !== "end";
      if (kind === "stream" && /^[0-9a-f]{32}$/.test(data.id)) identity = data.id;
      else if (kind === "delta") said.append(data.text);
      else if (kind === "progress") tell("{done} of {total}", data);
      else if (kind === "result") became(data);
      else if (kind === "error") failure = new Refusal(data.error);
    },
  });
  if (failure) throw failure;
  if (!state.whole) throw new Refusal({ message: "The answer has no end.", code: "stream_broken" });
}

async function runJob(signal) {
  const order = parts().map(([, picture]) => picture);
  const job = await json("/v1/jobs", { method: "POST", body: bodyOf({ task: state.task.name }), headers: { "Idempotency-Key": crypto.randomUUID?.() || String(Math.random()) }, signal });
  state.job = true;
  tell("{done} of {total}", { done: 0, total: order.length });
  await watched(job.id, {
    signal,
    item({ index, result, error }) {
      const picture = order[index];
      if (!picture || signal.aborted) return;
      state.outcomes.set(picture.id, result ? { result } : { error });
      if (state.open === picture.id) openOne(picture.id);
      else find(`[data-cell="${picture.id}"]`, stage)?.replaceWith(cellOf(picture));
    },
    progress: ({ settled, total }) => tell("{done} of {total}", { done: settled, total }),
    lost: (tries) => tell("The connection broke. Coming back… ({tries})", { tries }, "wrong"),
    found: () => tell("Connected again."),
  });
}

