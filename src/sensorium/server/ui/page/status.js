// What the server is doing: health, models, usage, numbers.
import { button, make, named, prettified, put, say, told } from "./dom.js";
import { measured, tiles } from "./live.js";
import { errorView } from "./results.js";
import { ask, json, refused } from "./server.js";

const MOST_NUMBERS = 300;

let view, leaving;
let by = "model";

export function show(section) {
  view = section;
  hide();
  leaving = new AbortController();
  const parts = [["Now", tiles], ["Health", health], ["Usage", usage], ["Models", models], ["Numbers", numbers]];
  view.replaceChildren(
    make("div", { class: "title" }, make("h2", {}, say("Server")), button("Refresh", () => show(view))),
    make("div", { class: "cards" }, parts.map(([title, fill]) => card(title, fill))));
}

export function hide() {
  leaving?.abort();
}

function card(title, fill) {
  const body = make("div", {}, make("p", { class: "quiet" }, say("Asking…")));
  filled(body, fill);
  return make("article", { class: `card ${title.toLowerCase()}` }, make("h3", {}, say(title)), body);
}

async function filled(body, fill) {
  const { signal } = leaving;
  try {
    body.replaceChildren(...[await fill(signal, body)].flat());
  } catch (error) {
    if (!signal.aborted) body.replaceChildren(errorView(error));
  }
}

function table(head, rows) {
  const cells = (row) => row.map((one) => make("td", {}, one));
  const columns = head.map((one) => make("th", { scope: "col" }, say(one)));
  return make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, make("tr", {}, columns)), make("tbody", {}, rows.map((row) => make("tr", {}, cells(row))))));
}

const sign = (state) => make("span", { class: `state ${state}` }, told(prettified(state)));

async function health(signal) {
  const reply = await ask("/health/ready", { signal });
  if (reply.status !== 200 && reply.status !== 503) throw await refused(reply);
  const { status, tasks = {} } = await reply.json();
  const listed = (models) => Object.entries(models).map(([name, state]) => make("div", {}, make("code", {}, name), " ", sign(state)));
  const rows = Object.entries(tasks).filter(([, models]) => Object.keys(models).length).map(([task, models]) => [told(prettified(task)), listed(models)]);
  return [make("p", { class: `large ${reply.ok ? "right" : "wrong"}` }, told(prettified(status))), table(["Task", "Models"], rows)];
}

const number = (value) => Number(value).toLocaleString();

async function usage(signal, body) {
  const { since, usage: lines, budget } = await json(`/v1/usage?by=${by}`, { signal });
  const choice = make("select", {}, ["model", "task", "day"].map((one) => {
    const option = put(make("option", { value: one, selected: one === by }), prettified(one));
    return option;
  }));
  named(choice, "aria-label", "Sum up by");
  choice.addEventListener("change", () => {
    by = choice.value;
    filled(body, usage);
  });
  const rows = lines.map((line) => [make("bdi", {}, line[by] || "–"), number(line.requests), number(line.pictures), `${number(Math.round(line.seconds))} s`, number((line.input_tokens || 0) + (line.output_tokens || 0)), `$${line.cost.toFixed(2)}`]);
  const spent = budget && make("p", {}, say("Spent ${spent} of ${usd} per {per}", { spent: budget.spent_usd?.toFixed(2), usd: budget.usd ?? "∞", per: budget.per }));
  const none = make("p", { class: "quiet" }, say("Nothing was used yet."));
  return [make("p", { class: "row" }, choice, " ", say("since {day}", { day: since })), ...(spent ? [spent] : []), rows.length ? table(["Name", "Requests", "Pictures", "Time", "Tokens", "Cost"], rows) : none];
}

async function models(signal) {
  const { models: all } = await json("/v1/models", { signal });
  const rows = all.map((one) => [make("bdi", {}, one.model || one.name), (one.tasks || []).join(", "), one.licence || "", [sign(one.state), one.why ? make("div", { class: "quiet" }, one.why) : ""]]);
  return table(["Name", "Tasks", "Licence", "State"], rows);
}

async function numbers(signal) {
  const rows = await measured(signal);
  const field = named(named(make("input", { type: "search", spellcheck: "false" }), "placeholder", "Search"), "aria-label", "Search");
  const body = make("div");
  const draw = () => {
    const wanted = field.value.trim().toLowerCase();
    const found = rows.filter((row) => (wanted ? `${row.name}${row.labels} ${row.help}`.toLowerCase().includes(wanted) : row.value !== 0)).slice(0, MOST_NUMBERS);
    body.replaceChildren(table(["Name", "Value"], found.map((row) => [make("span", { title: row.help }, make("code", {}, row.name), " ", make("small", { class: "quiet" }, row.labels)), number(row.value)])));
  };
  field.addEventListener("input", draw);
  draw();
  return [make("p", { class: "row" }, field), body];
}
