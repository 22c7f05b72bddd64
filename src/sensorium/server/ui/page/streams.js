// Answers as they come. A stream that is silent for SILENCE or whose connection breaks is gone on with, from its last event.
import { Refusal, refused, understood } from "./server.js";

const SILENCE = 30_000; // milliseconds; signs of life come twice as often
const PAUSE = 2_000;
const MOST_TRIES = 150; // in a row, without an event in between: five minutes

const PASSING = new Set([408, 429, 500, 502, 503, 504]);

// Calls `hear(kind, data)` for each event up to the end, and `lost(tries)` and `found()` when the connection breaks and is back.
// `first(signal)` asks; `again(last, signal)` goes on after the event whose id is `last`. `harmless`: what was not yet answered
// may be asked again, for that asks for nothing new. Raises a Refusal, or an AbortError when `signal` says so.
export async function follow({ first, again, hear, lost, found, signal, harmless = false }) {
  let last = "";
  let tries = 0;
  const heard = (event) => {
    if (event.id) last = event.id;
    tries = 0;
    hear(event.kind, event.data);
    return event.kind === "end";
  };
  for (;;) {
    const watch = watching(signal);
    try {
      const reply = await (last ? again(last, watch.signal) : first(watch.signal));
      if (reply.status === 204) return;
      if (!reply.ok) throw await refused(reply);
      if (tries) found();
      if (await read(reply, heard, watch.reset)) return;
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof Refusal && !((last || harmless) && PASSING.has(error.status))) throw error;
      if (!(error instanceof Refusal || error instanceof TypeError || error.name === "AbortError")) throw error;
    } finally {
      watch.stop();
    }
    if (!last && !harmless) throw new Refusal({ message: "The connection broke before the answer began. Ask again.", code: "connection_lost" });
    if (++tries > MOST_TRIES) throw new Refusal({ message: "The connection is lost.", code: "connection_lost" });
    lost(tries);
    await pause(PAUSE, signal);
  }
}

// Aborts when nothing was read for SILENCE, or when `outer` does.
function watching(outer) {
  const controller = new AbortController();
  const leave = () => controller.abort();
  outer.addEventListener("abort", leave);
  let timer = setTimeout(leave, SILENCE);
  return {
    signal: controller.signal,
    reset() {
      clearTimeout(timer);
      timer = setTimeout(leave, SILENCE);
    },
    stop() {
      clearTimeout(timer);
      outer.removeEventListener("abort", leave);
      leave();
    },
  };
}

// Whether the end was heard.
async function read(reply, heard, reset) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    reset();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = eventOf(block);
      if (event && heard(event)) return true;
    }
  }
}

// None of a sign of life, which is a line that begins with a colon.
function eventOf(block) {
  const event = { id: "", kind: "message", data: "" };
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (name === "id") event.id = value;
    else if (name === "event") event.kind = value;
    else if (name === "data") event.data += value;
  }
  return event.data ? { ...event, data: understood(valueOf(event.data)) } : null;
}

function valueOf(words) {
  try {
    return JSON.parse(words);
  } catch {
    return null;
  }
}

function pause(time, signal) {
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", leave);
      resolve();
    }, time);
    signal.addEventListener("abort", leave, { once: true });
  });
}
