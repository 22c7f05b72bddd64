// Controls for the fields of a task. Each has `node` to show and `value()`: undefined where it is as the server has it anyway.
import { make, named, prettified, put, told } from "./dom.js";

const LONG = 1000; // characters from which a text is a question or the like, and has room for lines

export function controlOf(field, models) {
  const id = `field-${field.name}`;
  const kind = kindOf(field);
  const { input, value, beside } = kind(field, id, models);
  const help = field.description && make("p", { class: "help", id: `${id}-help` }, told(field.description));
  if (help) input.setAttribute("aria-describedby", `${id}-help`);
  const name = told(prettified(field.name));
  const classes = `field ${input.type === "checkbox" ? "check" : input.matches("input[type=number], select") ? "short" : ""}`;
  const node = input.matches("fieldset")
    ? make("div", { class: classes }, (input.prepend(make("legend", {}, name)), input), help)
    : make("div", { class: classes }, make("label", { for: id }, name), input, beside, help);
  return { name: field.name, field, node, value };
}

function kindOf(field) {
  if (field.name === "model") return chosenModel;
  if (field.enum) return choice;
  if (field.type === "boolean") return tick;
  if (field.type === "array" && field.items?.enum) return ticks;
  if (field.type === "array" && field.items?.type === "string") return listed;
  if (isNumber(field)) return isShare(field) ? slider : number;
  if (field.type === "string" || !field.type) return isLong(field) ? lines : line;
  return structured;
}

export const isNumber = (field) => field.type === "integer" || field.type === "number";
const isShare = (field) => field.type === "number" && field.minimum === 0 && field.maximum === 1 && typeof field.default === "number";
export const isLong = (field) => field.type === "string" && field.maxLength >= LONG;

const isNothing = (value) => value === undefined || value === null || (Array.isArray(value) && !value.length);
const usual = (field) => (isNothing(field.default) ? "" : typeof field.default === "string" ? field.default : JSON.stringify(field.default));

function hinted(input, field) {
  const example = field.examples?.[0];
  const hint = usual(field) || (example === undefined || example === null ? "" : Array.isArray(example) ? example.join(", ") : String(example));
  if (hint) input.setAttribute("placeholder", hint);
  return input;
}

const worded = (input) => ({ input, value: () => (input.value.trim() === "" ? undefined : input.value) });

function line(field, id) {
  return worded(hinted(make("input", { id, type: "text", maxlength: field.maxLength, autocomplete: "off", required: field.required }), field));
}

function lines(field, id) {
  return worded(hinted(make("textarea", { id, rows: 3, required: field.required, dir: "auto" }), field));
}

function listed(field, id) {
  const { input, value } = line({ ...field, maxLength: undefined }, id);
  return { input, value: () => value()?.split(",").map((one) => one.trim()).filter(Boolean) };
}

function structured(field, id) {
  const input = make("textarea", { id, rows: 2, spellcheck: "false", class: "code", placeholder: field.type === "array" ? "[…]" : "{…}" });
  return { input, value: () => (input.value.trim() === "" ? undefined : parsed(field.name, input.value)) };
}

function parsed(name, written) {
  try {
    return JSON.parse(written);
  } catch (error) {
    throw new SyntaxError(`${name}: ${error.message}`);
  }
}

function number(field, id) {
  const input = make("input", {
    id, type: "number", min: field.minimum ?? field.exclusiveMinimum, max: field.maximum ?? field.exclusiveMaximum,
    step: field.type === "integer" ? 1 : "any", required: field.required,
  });
  return { input: hinted(input, field), value: () => (input.value === "" ? undefined : Number(input.value)) };
}

function slider(field, id) {
  const input = make("input", { id, type: "range", min: 0, max: 1, step: 0.01, value: field.default });
  const beside = make("output", { for: id }, field.default.toFixed(2));
  input.addEventListener("input", () => { beside.textContent = Number(input.value).toFixed(2); });
  return { input, beside, value: () => (Number(input.value) === field.default ? undefined : Number(input.value)) };
}

function choice(field, id) {
  const none = field.default === undefined || field.default === null;
  const input = make("select", { id }, none && make("option", { value: "" }, "–"), field.enum.map((one) => put(make("option", { value: one, "data-told": true }), String(one))));
  input.value = none ? "" : field.default;
  return { input, value: () => (input.value === usual(field) ? undefined : input.value) };
}

function tick(field, id) {
  const input = make("input", { id, type: "checkbox" });
  input.checked = Boolean(field.default);
  return { input, value: () => (input.checked === Boolean(field.default) ? undefined : input.checked) };
}

function ticks(field, id) {
  const wanted = new Set(field.default || []);
  const boxes = field.items.enum.map((one) => {
    const box = make("input", { type: "checkbox", value: one });
    box.checked = wanted.has(one);
    return box;
  });
  const input = make("fieldset", { id }, boxes.map((box) => make("label", { class: "check" }, box, " ", told(prettified(box.value)))));
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  return { input, value: () => (chosen().join() === [...wanted].join() ? undefined : chosen()) };
}

function chosenModel(field, id, models) {
  const input = make("input", { id, type: "text", list: `${id}-list`, maxlength: field.maxLength, autocomplete: "off", spellcheck: "false" });
  named(input, "placeholder", "as the server's settings say");
  return { ...worded(input), beside: make("datalist", { id: `${id}-list` }, models.map((one) => make("option", { value: one }))) };
}

// A value as a form carries it.
export const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

