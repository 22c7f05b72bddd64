// The ways to ask a task: at once, told as it comes, and as a job.
import { asText } from "./fields.js";
import { Refusal, ask, json, understood } from "./server.js";
import { follow } from "./streams.js";
import { watched } from "./watch.js";

// Each picture with the field that it goes into; `together`: all belong to one request.
export function partsOf(task, pictures, together) {
  if (!task.singles.length && !task.list) return [];
  if (together) return pictures.map((picture, place) => [task.singles[place] || task.list || task.singles[0], picture]);
  // Files come first, for so the server takes them.
  return pictures.toSorted((one, other) => Boolean(other.file) - Boolean(one.file)).map((picture) => [task.singles[0], picture]);
}

function post(parts, values, options) {
  const body = new FormData();
  for (const [field, picture] of parts) body.append(field, ...(picture.file ? [picture.file, picture.name] : [picture.url]));
  for (const [name, value] of Object.entries(values)) body.append(name, asText(value));
  return { method: "POST", body, ...options };
}

// The answer; of several requests an object with `results`, one for each.
export async function askAtOnce(task, parts, values, signal, together) {
  const answer = await json(task.path, post(parts, values, { signal }));
  if (!together && answer.results?.length !== parts.length) understood(null);
  return answer;
}

// The answer. Before it `hear` is told each event; `lost` and `found`, how the connection is. Ends the work when `signal` does.
export async function askAloud(task, parts, values, { signal, hear, lost, found }) {
  const outcome = {};
  let stream = "";
  const end = () => stream && ask(`/v1/streams/${stream}`, { method: "DELETE", keepalive: true }).catch(() => {});
  signal.addEventListener("abort", end);
  const request = post(parts, { ...values, stream: true }, { headers: { Accept: "text/event-stream" } });
  await follow({
    signal,
    lost,
    found,
    first: (inner) => ask(task.path, { ...request, signal: inner }),
    again: (last, inner) => ask(`/v1/streams/${stream}`, { headers: { "Last-Event-ID": last }, signal: inner }),
    hear(kind, data) {
      if (kind === "stream" && /^[0-9a-f]{32}$/.test(data.id)) stream = data.id;
      if (kind === "result" || kind === "error") outcome[kind] = data;
      hear(kind, data);
    },
  });
  signal.removeEventListener("abort", end);
  if (outcome.error) throw new Refusal(outcome.error.error || {});
  if (!outcome.result) throw new Refusal({ message: "The answer has no end.", code: "stream_broken" });
  return understood(outcome.result);
}

// Hands a job in, calls `begun`, and tells its outcomes to `item`, with their place among the parts.
export async function askForJob(task, parts, values, { signal, begun, ...told }) {
  // Without one a request that the browser sends again would be another job; it needs no secrecy.
  const once = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  const job = await json("/v1/jobs", post(parts, { ...values, task: task.name }, { headers: { "Idempotency-Key": once }, signal }));
  begun(job);
  await watched(job.id, { signal, ...told });
}
