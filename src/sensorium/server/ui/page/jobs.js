// The jobs of whoever looks: how far each is, and what came of it.
import { button, find, make, prettified, put, say, told } from "./dom.js";
import { answerView, brief, errorView } from "./results.js";
import { Refusal, json } from "./server.js";
import { watched } from "./watch.js";

const MOST = 50; // jobs that are listed
const MOST_OUTCOMES = 100; // that are told at once
const WATCHED = 3; // at the same time: a browser has six connections for one server
const AGAIN = 3000; // milliseconds until the list is asked for again, while jobs go on that are not watched

let view, watching, timer;

export function show(section) {
  view = section;
  watching = new AbortController();
  load();
}

export function hide() {
  watching?.abort();
  clearTimeout(timer);
}

async function load() {
  const { signal } = watching;
  try {
    const { jobs } = await json(`/v1/jobs?limit=${MOST}`, { signal });
    draw(jobs);
    const going = jobs.filter((job) => job.ended === null);
    going.slice(0, WATCHED).forEach((job) => watch(job, signal));
    if (going.length > WATCHED) timer = setTimeout(load, AGAIN);
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

function failed(error) {
  view.replaceChildren(titleRow(), errorView(error instanceof Refusal ? error : { message: "The server cannot be reached. Does it still run?" }));
}

function titleRow() {
  const again = button("Refresh", () => {
    hide();
    show(view);
  });
  return make("div", { class: "title" }, make("h2", {}, say("Jobs")), again);
}

function draw(jobs) {
  const none = make("p", { class: "quiet" }, say("There are no jobs. Choose several pictures and tick “As a job”, or send them to /v1/jobs."));
  view.replaceChildren(titleRow(), jobs.length ? make("ul", { class: "jobs" }, jobs.map(lineOf)) : none);
}

function lineOf(job) {
  const node = make("li", { "data-job": job.id, "aria-labelledby": `job-${job.id}` });
  const more = make("div", { class: "outcomes" });
  const look = button("Show", () => reveal(job, more, look), { "aria-expanded": "false" });
  const end = button("End it", () => cancel(job.id, node, end));
  end.hidden = job.ended !== null;
  node.append(
    make("div", { class: "head" },
      make("strong", { id: `job-${job.id}` }, told(prettified(job.task))),
      make("span", { class: `state ${job.state}` }, told(prettified(job.state))),
      make("code", {}, job.id.slice(0, 8)),
      make("time", { datetime: job.created }, new Date(job.created).toLocaleString())),
    make("progress", { max: job.progress.total, value: job.progress.settled, "aria-labelledby": `job-${job.id}` }),
    make("p", { class: "counts", role: "status" }),
    make("div", { class: "buttons" }, look, end), more);
  update(node, job);
  return node;
}

function update(node, { state, progress }) {
  if (state) {
    const sign = find(".state", node);
    sign.className = `state ${state}`;
    sign.replaceChildren(told(prettified(state)));
    if (["done", "failed", "cancelled"].includes(state)) find(".buttons button:last-child", node).hidden = true;
  }
  if (progress) {
    find("progress", node).value = progress.settled;
    put(find(".counts", node), progress.failed + progress.dead ? "{settled} of {total}, {wrong} with an error" : "{settled} of {total}", { ...progress, wrong: progress.failed + progress.dead });
  }
}

async function watch(job, signal) {
  const node = find(`[data-job="${job.id}"]`, view);
  const sign = find(".counts", node);
  try {
    const ended = await watched(job.id, {
      signal,
      moved: ({ state }) => update(node, { state }),
      progress: (progress) => update(node, { progress }),
      lost: (tries) => put(sign, "The connection broke. Coming back… ({tries})", { tries }),
      found: () => put(sign, "Connected again."),
    });
    if (ended) update(node, ended);
  } catch (error) {
    if (!signal.aborted) find(".outcomes", node).replaceChildren(errorView(error));
  }
}

async function cancel(id, node, end) {
  end.disabled = true;
  try {
    update(node, await json(`/v1/jobs/${id}`, { method: "DELETE" }));
  } catch (error) {
    find(".outcomes", node).replaceChildren(errorView(error));
  }
}

async function reveal(job, more, look) {
  const opened = look.getAttribute("aria-expanded") === "true";
  look.setAttribute("aria-expanded", !opened);
  put(look.firstChild, opened ? "Show" : "Hide");
  if (opened) return more.replaceChildren();
  await page(job.id, more, 0);
}

async function page(id, more, after) {
  try {
    const { outcomes, next } = await json(`/v1/jobs/${id}?after=${after}&limit=${MOST_OUTCOMES}`);
    const rest = outcomes.length === MOST_OUTCOMES && button("More", () => {
      rest.remove();
      page(id, more, next);
    });
    if (!after && !outcomes.length) more.append(make("p", { class: "quiet" }, say("There is no answer yet.")));
    more.append(...outcomes.map(outcomeView), ...(rest ? [rest] : []));
  } catch (error) {
    more.append(errorView(error));
  }
}

function outcomeView({ index, result, error }) {
  const name = say("Item {number}", { number: index + 1 });
  return make("details", { open: Boolean(error) }, make("summary", {}, name, " ", brief({ result, error })), result ? answerView(result) : errorView(error));
}
