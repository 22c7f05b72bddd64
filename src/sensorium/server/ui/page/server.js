// How the server is asked. Everything goes to where the page came from.
import { keep, kept } from "./kept.js";

export const folder = new URL(".", location.href);
// Put together as text: of `//elsewhere` a URL would make another server.
export const address = (path) => new URL(folder.href + path.replace(/^\/+/, ""));

const KEY = "sensorium-key";

export const key = () => kept("sessionStorage", KEY);
export const useKey = (given) => keep("sessionStorage", KEY, given);

export const news = new EventTarget(); // "key": the server asks for one

// What the server, or something on the way to it, said instead of an answer.
export class Refusal extends Error {
  constructor(error, status = 0, wait = null) {
    super(String(error.message || `status ${status}`));
    this.code = String(error.code || "");
    this.trace = String(error.trace || "");
    this.retryable = Boolean(error.retryable);
    this.wait = error.retry_after_seconds ?? wait;
    this.status = status;
  }
}

export function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key() ? { Authorization: `Bearer ${key()}` } : {}) };
  return fetch(address(path), { ...options, headers, cache: "no-store", redirect: "error" });
}

// The answer, an object; raises a Refusal.
export async function json(path, options) {
  const reply = await ask(path, options);
  if (!reply.ok) throw await refused(reply);
  return understood(await reply.json().catch((error) => {
    if (error instanceof SyntaxError) return null;
    throw error; // the connection broke
  }));
}

// What only another program can have said, such as one that stands before the server, is no answer.
export function understood(answer) {
  if (answer && typeof answer === "object" && !Array.isArray(answer)) return answer;
  throw new Refusal({ message: "What came back is no answer of this server. Does something stand before it?", code: "not_understood" });
}

export async function refused(reply) {
  if (reply.status === 401) news.dispatchEvent(new Event("key"));
  const wait = Number(reply.headers.get("Retry-After")) || null;
  try {
    const body = await reply.json();
    // Of a list of pictures that all failed, each has its own error: they are told where the pictures are.
    if (body.error) return new Refusal(typeof body.error === "string" ? { message: body.error } : body.error, reply.status, wait);
    return Object.assign(new Refusal({}, reply.status, wait), { results: Array.isArray(body.results) ? body.results : null });
  } catch {
    return new Refusal({}, reply.status, wait);
  }
}
