// Draws the page from openapi.json. All text goes in as text, never as HTML; nothing is asked of another server.
"use strict";

const folder = new URL(".", location.href);
let spec = null;
let key = "";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// Words with `code` in them.
function prose(text) {
  return (text || "").split("`").map((part, place) => (place % 2 ? make("code", {}, part) : part));
}

const shown = (value) => JSON.stringify(value, null, 2);
const block = (text, label) => make("pre", { tabindex: 0, role: "region", "aria-label": label }, make("code", {}, text));
const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

// ---- schemas

const nameOf = (schema) => (schema.$ref ? schema.$ref.split("/").pop() : null);

function resolved(thing) {
  if (!thing || !thing.$ref) return thing || {};
  return thing.$ref.slice(2).split("/").reduce((inside, word) => inside[word], spec);
}

// Without the null of a field that may be left out.
function plain(schema) {
  const choices = (schema.anyOf || []).filter((one) => one.type !== "null");
  return schema.anyOf && choices.length === 1 ? { ...schema, anyOf: undefined, ...resolved(choices[0]) } : resolved(schema);
}

const joined = (parts, word) => parts.flatMap((part, place) => (place ? [word, ...part] : part));

// What a value looks like, in a few words; names of types lead to them.
function kind(schema) {
  const name = nameOf(schema);
  if (name) return [make("a", { href: `#type-${name}` }, name)];
  const choices = (schema.oneOf || schema.anyOf || []).filter((one) => one.type !== "null");
  if (choices.length) return joined(choices.map(kind), " or ");
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.enum) return [`one of ${schema.enum.map((one) => JSON.stringify(one)).join(", ")}`];
  if (schema.type === "array" && schema.prefixItems) return ["(", ...joined(schema.prefixItems.map(kind), ", "), ")"];
  if (schema.type === "array") return ["list of ", ...kind(schema.items || {})];
  if (schema.type === "object" && schema.additionalProperties) return ["map to ", ...kind(schema.additionalProperties)];
  if (schema.format === "binary") return ["file"];
  return [schema.type || "any value"];
}

function bounds(schema) {
  const least = schema.minimum ?? (schema.exclusiveMinimum === undefined ? undefined : `over ${schema.exclusiveMinimum}`);
  const most = schema.maximum ?? (schema.exclusiveMaximum === undefined ? undefined : `under ${schema.exclusiveMaximum}`);
  const told = [];
  if (schema.minimum !== undefined && schema.maximum !== undefined) told.push(`${least} to ${most}`);
  else {
    if (least !== undefined) told.push(String(least).startsWith("over") ? least : `at least ${least}`);
    if (most !== undefined) told.push(String(most).startsWith("under") ? most : `at most ${most}`);
  }
  if (schema.maxLength) told.push(`at most ${schema.maxLength} characters`);
  if (schema.default !== undefined && schema.default !== null) told.push(`default ${JSON.stringify(schema.default)}`);
  return told.join("; ");
}

function fieldList(schema) {
  const wanted = new Set(schema.required || []);
  return make("dl", {}, Object.entries(schema.properties || {}).flatMap(([name, one]) => {
    const limits = bounds(plain(one));
    const traits = ["  ", ...kind(one), limits ? `; ${limits}` : "", wanted.has(name) ? "; required" : ""];
    return [
      make("dt", {}, make("code", {}, name), make("span", { class: "quiet" }, traits)),
      make("dd", {}, make("p", {}, prose(one.description || plain(one).description))),
    ];
  }));
}

function schemaView(schema) {
  if (schema.properties) return fieldList(schema);
  return make("p", {}, kind(schema));
}

// ---- what a route takes and gives

function contentView(content) {
  return Object.entries(content || {}).map(([type, media]) => {
    const examples = Object.entries(media.examples || {}).map(([name, one]) => [name, one.value]);
    if (media.example !== undefined) examples.unshift(["", media.example]);
    return make("details", {},
      make("summary", {}, make("code", {}, type)),
      schemaView(media.schema || {}),
      examples.map(([name, value]) => [make("p", { class: "quiet" }, `Example ${name}`), block(shown(value), `Example ${name}`)]),
    );
  });
}

function requestView(operation) {
  if (!operation.requestBody) return null;
  return make("details", {}, make("summary", {}, "What it takes"), contentView(operation.requestBody.content));
}

function answersView(operation) {
  const answers = Object.entries(operation.responses || {}).map(([status, given]) => {
    const answer = resolved(given);
    return make("details", {},
      make("summary", {}, make("code", {}, status), " ", make("span", { class: "quiet" }, prose(answer.description))),
      contentView(answer.content),
    );
  });
  return make("details", {}, make("summary", {}, "What it answers"), answers);
}

// ---- the form to try a route

const isFile = (schema) => schema.format === "binary" || (schema.items || {}).format === "binary";

// Each control has `node` to show, and `values()`: what goes into the form under its name.
function fileControl(id, name, schema, url) {
  const input = make("input", { type: "file", id, name, accept: "image/*", multiple: schema.type === "array", "aria-describedby": `${id}-help` });
  const previews = make("div", { class: "previews" });
  let addresses = [];
  input.addEventListener("change", () => {
    addresses.forEach((address) => URL.revokeObjectURL(address));
    addresses = [...input.files].slice(0, 8).map((file) => URL.createObjectURL(file));
    previews.replaceChildren(...addresses.map((address, place) => make("img", { src: address, alt: input.files[place].name })));
  });
  const link = make("input", { type: "url", id: `${id}-url`, placeholder: "https://example.com/cat.jpg" });
  const node = make("div", { class: "field" },
    make("label", { for: id }, name), input,
    make("p", { id: `${id}-help` }, prose(schema.description)), previews,
    url ? [make("label", { for: `${id}-url` }, `or the URL of a picture`), link] : null,
  );
  return { node, values: () => [...input.files, ...(url && link.value ? [link.value] : [])] };
}

function choiceControl(id, name, schema) {
  const usual = new Set(schema.default || []);
  const boxes = schema.items.enum.map((one) => make("input", { type: "checkbox", value: one, checked: usual.has(one) }));
  const node = make("fieldset", { class: "field" }, make("legend", {}, name),
    boxes.map((box) => make("label", {}, box, box.value)), make("p", {}, prose(schema.description)));
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  return { node, values: () => (chosen().join() === [...usual].join() ? [] : [chosen().join(",")]) };
}

function textControl(id, name, schema) {
  const choices = schema.enum || (schema.type === "boolean" ? ["true", "false"] : null);
  const isNumber = schema.type === "integer" || schema.type === "number";
  const usual = schema.default === undefined || schema.default === null ? "" : typeof schema.default === "string" ? schema.default : JSON.stringify(schema.default);
  const input = choices
    ? make("select", { id, name }, make("option", { value: "" }, usual ? `${usual} (default)` : "(not given)"), choices.map((one) => make("option", {}, one)))
    : make("input", {
        id, name, type: isNumber ? "number" : "text", min: schema.minimum ?? schema.exclusiveMinimum, max: schema.maximum,
        step: schema.type === "integer" ? 1 : isNumber ? "any" : null, placeholder: usual, maxlength: schema.maxLength, autocomplete: "off",
      });
  input.setAttribute("aria-describedby", `${id}-help`);
  const node = make("div", { class: "field" }, make("label", { for: id }, name), input,
    make("p", { id: `${id}-help` }, prose(schema.description), bounds(schema) ? ` (${bounds(schema)})` : ""));
  return { node, values: () => (input.value === "" ? [] : [input.value]) };
}

function controlOf(id, name, given, json) {
  const schema = { description: given.description, ...plain(given) };
  if (isFile(schema)) return fileControl(id, name, schema, Boolean(json[name]));
  if (schema.type === "array" && (schema.items || {}).enum) return choiceControl(id, name, schema);
  return textControl(id, name, schema);
}

function controlsOf(operation) {
  const content = (operation.requestBody || {}).content || {};
  const form = ((content["multipart/form-data"] || {}).schema || {}).properties || {};
  const json = ((content["application/json"] || {}).schema || {}).properties || {};
  const names = Object.keys(form).sort((one, other) => isFile(plain(form[other])) - isFile(plain(form[one])));
  return names.map((name) => [name, controlOf(`${operation.operationId}-${name}`, name, form[name], json)]);
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function curl(method, address, fields) {
  const words = ["curl"];
  if (key) words.push("-H", `"Authorization: Bearer $KEY"`);
  for (const [name, value] of fields) words.push(value instanceof File ? "-F" : "--form-string", quoted(value instanceof File ? `${name}=@${value.name}` : `${name}=${value}`));
  if (method === "POST" && !fields.length) words.push("-X", "POST");
  return [...words, quoted(address)].join(" ");
}

function tryView(path, method, operation, open) {
  const controls = controlsOf(operation);
  const address = new URL(path.slice(1), folder).href;
  const fields = () => controls.flatMap(([name, control]) => control.values().map((value) => [name, value]));
  const send = make("button", { class: "send" }, "Send");
  const stop = make("button", { type: "button", disabled: true }, "Stop");
  const outcome = make("p", { class: "outcome", role: "status" });
  const answer = make("div", { class: "answer" });
  const command = make("code", {}, curl(method, address, []));
  const form = make("form", { class: "try" }, controls.map(([, control]) => control.node),
    make("div", { class: "buttons" }, send, stop),
    make("details", {}, make("summary", {}, "As a command"), make("pre", { tabindex: 0 }, command)), outcome, answer);
  let leaving = null;
  form.addEventListener("input", () => { command.textContent = curl(method, address, fields()); });
  stop.addEventListener("click", () => leaving && leaving.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (leaving) return;
    leaving = new AbortController();
    send.disabled = !(stop.disabled = false);
    outcome.className = "outcome";
    outcome.textContent = "Waiting for the answer…";
    answer.replaceChildren();
    command.textContent = curl(method, address, fields());
    const start = performance.now();
    try {
      const body = new FormData();
      fields().forEach(([name, value]) => body.append(name, value));
      const reply = await fetch(address, { method, headers: headers(), signal: leaving.signal, ...(method === "POST" ? { body } : {}) });
      const text = await reply.text();
      const took = Math.round(performance.now() - start);
      outcome.className = `outcome ${reply.ok ? "good" : "bad"}`;
      outcome.textContent = `${reply.status} after ${took} ms` + (reply.headers.get("Retry-After") ? `; come back in ${reply.headers.get("Retry-After")} s` : "");
      answer.replaceChildren(block(asJson(text), "Answer"));
    } catch (error) {
      outcome.className = "outcome bad";
      outcome.textContent = error.name === "AbortError" ? "Stopped." : `No answer: ${error.message}. Does the server still run?`;
    } finally {
      leaving = null;
      send.disabled = !(stop.disabled = true);
    }
  });
  return make("details", { open }, make("summary", {}, "Try it"), form);
}

function asJson(text) {
  try {
    return shown(JSON.parse(text));
  } catch {
    return text;
  }
}

// ---- the page

function routeView(path, method, operation, open) {
  const id = `route-${operation.operationId}`;
  return make("article", { id, "aria-labelledby": `${id}-name`, "data-route": `${method} ${path}` },
    make("h3", { id: `${id}-name` }, make("span", { class: `method ${method.toLowerCase()}` }, method), path),
    make("p", {}, prose(operation.summary)),
    operation.description ? make("p", {}, prose(operation.description)) : null,
    requestView(operation), answersView(operation), tryView(path, method, operation, open));
}

function typeView([name, schema]) {
  return make("article", { id: `type-${name}` }, make("h3", {}, name), make("p", {}, prose(schema.description)), schemaView(schema));
}

function grouped() {
  const groups = new Map();
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const tag = (operation.tags || ["other"])[0];
      groups.set(tag, [...(groups.get(tag) || []), [path, method.toUpperCase(), operation]]);
    }
  }
  // What people come for goes first.
  return [...groups].sort(([one], [other]) => (other === "tasks") - (one === "tasks"));
}

function draw() {
  document.getElementById("version").textContent = spec.info.version;
  document.getElementById("about").textContent = spec.info.summary || "";
  const groups = grouped();
  let first = true;
  const sections = groups.map(([tag, routes]) => make("section", {}, make("h2", {}, tag), routes.map(([path, method, operation]) => {
    const view = routeView(path, method, operation, first);
    first = false;
    return view;
  })));
  const types = Object.entries(spec.components.schemas).sort();
  sections.push(make("section", {}, make("h2", {}, "types"), types.map(typeView)));
  document.getElementById("routes").replaceChildren(...sections);
  document.getElementById("contents").replaceChildren(
    ...groups.flatMap(([tag, routes]) => [make("h2", {}, tag), make("ul", {}, routes.map(([path, , operation]) => make("li", {}, make("a", { href: `#route-${operation.operationId}` }, path))))]),
    make("details", {}, make("summary", {}, "Types"), make("ul", {}, types.map(([name]) => make("li", {}, make("a", { href: `#type-${name}` }, name))))),
  );
}

async function load() {
  const state = document.getElementById("state");
  try {
    const reply = await fetch(new URL("openapi.json", folder), { headers: headers() });
    if (reply.ok) {
      spec = await reply.json();
      draw();
      return;
    }
    state.textContent = reply.status === 401 || reply.status === 403
      ? "This server asks for a key. Write it into the field above."
      : `The server did not describe itself (status ${reply.status}).`;
  } catch (error) {
    state.textContent = `The server cannot be reached: ${error.message}`;
  }
}

document.getElementById("access").addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value.trim();
  if (!spec) load();
});
document.getElementById("key").addEventListener("input", (event) => { key = event.target.value.trim(); });
load();
