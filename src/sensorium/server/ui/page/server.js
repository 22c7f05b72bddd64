// How the server is asked. Everything goes to where the page came from.
import { keep, kept } from "./kept.js";

export const folder = new URL(".", location.href);
export const address = (path) => new URL(path.replace(/^\//, ""), folder);

const KEY = "sensorium-key";

export const key = () => kept("sessionStorage", KEY);
export const useKey = (given) => keep("sessionStorage", KEY, given);

export const news = new EventTarget(); // "key": the server asks for one

// What the server, or something on the way to it, said instead of an answer.
export class Refusal extends Error {
  constructor(error, status = 0, wait = null) {
    super(error.message);
    this.code = error.code || "";
    this.trace = error.trace || "";
    this.retryable = Boolean(error.retryable);
    this.wait = error.retry_after_seconds ?? wait;
    this.status = status;
  }
}

export function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key() ? { Authorization: `Bearer ${key()}` } : {}) };
  return fetch(address(path), { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
}

// The answer as a value; raises a Refusal.
export async function json(path, options) {
  const reply = await ask(path, options);
  if (!reply.ok) throw await refused(reply);
  return reply.json();
}

export async function refused(reply) {
  if (reply.status === 401) news.dispatchEvent(new Event("key"));
  const wait = Number(reply.headers.get("Retry-After")) || null;
  try {
    const body = await reply.json();
    // Of a list of pictures that all failed, each has its own error: they are told where the pictures are.
    if (body.error) return new Refusal(body.error, reply.status, wait);
    return Object.assign(new Refusal({ message: `status ${reply.status}` }, reply.status, wait), { results: body.results });
  } catch {
    return new Refusal({ message: `status ${reply.status}` }, reply.status, wait);
  }
}
