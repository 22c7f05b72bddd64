// The numbers of `/metrics`, and a few of them as they change.
import { make, put, say, seconds } from "./dom.js";
import { ask, refused } from "./server.js";

const EVERY = 2000; // milliseconds

// Lines `name{labels} value`, with `# HELP name words` before.
function parsed(page) {
  const helps = new Map();
  const rows = [];
  for (const line of page.split("\n")) {
    const help = /^# HELP (\S+) (.*)$/.exec(line);
    if (help) helps.set(help[1], help[2]);
    const one = /^([a-z_]\w*)(\{.*\})? (\S+)$/i.exec(line);
    if (one && !one[1].endsWith("_bucket")) rows.push({ name: one[1], labels: one[2] || "", value: Number(one[3]), help: helps.get(one[1]) || "" });
  }
  return rows;
}

export async function measured(signal) {
  const reply = await ask("/metrics", { signal });
  if (!reply.ok) throw await refused(reply);
  return parsed(await reply.text());
}

function moment(rows) {
  const sum = (name, counts = () => true) => rows.filter((row) => row.name === name && counts(row)).reduce((all, row) => all + row.value, 0);
  return {
    at: performance.now(),
    requests: sum("sensorium_requests_total"),
    errors: sum("sensorium_requests_total", (row) => !row.labels.includes('code="ok"')),
    spent: sum("sensorium_request_seconds_sum"),
    counted: sum("sensorium_request_seconds_count"),
    running: sum("sensorium_requests_in_progress"),
    waiting: sum("sensorium_admission_waiting_requests"),
  };
}

// What each tile shows: of this moment, and of the one before where there is one.
const TILES = {
  Requests: (now) => now.requests.toLocaleString(),
  "A second": (now, before) => (before ? ((1000 * (now.requests - before.requests)) / (now.at - before.at)).toFixed(1) : "–"),
  "Mean time": (now, before) => {
    const from = before && now.counted > before.counted ? before : { spent: 0, counted: 0 };
    return now.counted > from.counted ? seconds((now.spent - from.spent) / (now.counted - from.counted)) : "–";
  },
  "Under way": (now) => String(now.running),
  Waiting: (now) => String(now.waiting),
  Errors: (now) => now.errors.toLocaleString(),
};

// Tiles that change until `signal` is aborted; nothing is asked while nobody can see them.
export async function tiles(signal) {
  let before = moment(await measured(signal));
  const values = Object.fromEntries(Object.keys(TILES).map((name) => [name, make("strong")]));
  const draw = (now, last) => Object.entries(TILES).forEach(([name, tell]) => { values[name].textContent = tell(now, last); });
  draw(before);
  const problem = make("p", { class: "wrong", role: "status" });
  const timer = setInterval(async () => {
    if (document.hidden) return;
    try {
      const now = moment(await measured(signal));
      draw(now, before);
      before = now;
      problem.textContent = "";
    } catch {
      if (!signal.aborted) put(problem, "The server cannot be reached. Does it still run?");
    }
  }, EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
  return [make("div", { class: "tiles" }, Object.entries(values).map(([name, value]) => make("div", { "data-tile": name }, value, say(name)))), problem];
}
