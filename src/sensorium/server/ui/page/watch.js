// A job, watched to its end.
import { Refusal, ask } from "./server.js";
import { follow } from "./streams.js";

// Calls `item` with each outcome, `progress` with how far it is, and `moved` with each new state. Gives the job at its end, or
// null where it had ended and there is no more to tell.
export async function watched(id, { signal, item = () => {}, progress = () => {}, moved = () => {}, lost, found }) {
  const path = `/v1/jobs/${encodeURIComponent(id)}/events`;
  let job = null;
  await follow({
    signal,
    harmless: true,
    first: (inner) => ask(path, { signal: inner }),
    again: (last, inner) => ask(path, { headers: { "Last-Event-ID": last }, signal: inner }),
    lost,
    found,
    hear(kind, data) {
      if (kind === "item") item(data);
      else if (kind === "progress") progress(data);
      else if (kind === "state") moved(data);
      // The job goes on without this server: what comes next is told when it is back.
      else if (kind === "error") throw new Refusal(data.error, data.error.retryable ? 503 : 400);
      else if (kind === "end") job = data;
    },
  });
  return job;
}
