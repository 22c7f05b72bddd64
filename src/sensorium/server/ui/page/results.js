// Answers as people read them: words, tables, pictures; each part known by its shape. Values may be hostile: they are text.
import { copied, make, prettified, prose, say, seconds, told } from "./dom.js";
import { inline, isPlace, isSized, percent, pictureOf } from "./frame.js";
import { endingOf } from "./names.js";

const MOST_ROWS = 500;
const LONGEST = 2000; // characters of a text in a table or in JSON; pictures in base64 have millions
const LONGEST_JSON = 200_000; // characters that are shown; all are copied
const DEEPEST = 12; // parts within parts
const SHARES = /(^|_)(score|share|brightness)$/;
const RATES = /(^|_)rate$/; // of errors: a long bar would look like much of something good
const ASIDE = new Set(["meta", "image"]);

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isEmpty = (value) => value === null || value === "" || (typeof value === "object" && !Object.keys(value).length);
const isBox = (value) => isObject(value) && ["left", "top", "right", "bottom"].every((edge) => Number.isFinite(value[edge]));
const isPoints = (value) => isObject(value) && Object.values(value).every(isPlace); // such as landmarks, which are drawn
const isTable = (value) => Array.isArray(value) && value.length > 0 && value.every(isObject);

// `drawn`: the parts that the stage shows as pictures; `meanings`: what the fields of the answer mean, by their names.
export function answerView(answer, { drawn = [], meanings = {} } = {}) {
  return make("div", { class: "answer" }, part(answer, "", { drawn, meanings }), about(answer));
}

function part(value, path, known, depth = DEEPEST) {
  const inner = Object.entries(value).filter(([name]) => !ASIDE.has(name));
  const at = (name) => (path ? `${path}.${name}` : name);
  const nodes = [];
  const said = [];
  const picture = pictureOf(value);
  if (picture && !known.drawn.includes(value)) nodes.push(pictured(picture, value), saving(picture, value));
  const plain = [];
  for (const [name, one] of inner) {
    if (picture && name === "data") continue;
    if (name === "text" && typeof one === "string") said.push(make("p", { class: "said", dir: "auto" }, one));
    else if (isTable(one)) nodes.push(titled(name, table(one, at(name))));
    else if (Array.isArray(one) && one.length && one.every((word) => typeof word === "string")) nodes.push(titled(name, sentences(one)));
    else if (Array.isArray(one) && !one.length) nodes.push(titled(name, make("p", { class: "quiet" }, say("None found."))));
    else if (isObject(one) && !isBox(one) && !isEmpty(one)) nodes.push(titled(name, depth > 1 ? part(one, at(name), known, depth - 1) : "…"));
    else if (!isEmpty(one)) plain.push([name, one]);
  }
  const meaning = (name) => !path && RATES.test(name) && known.meanings[name] && make("p", { class: "help" }, told(known.meanings[name]));
  if (plain.length) nodes.unshift(make("dl", { class: "facts" }, plain.map(([name, one]) => [make("dt", {}, told(prettified(name))), make("dd", {}, cell(name, one), meaning(name))])));
  return [said, nodes];
}

const titled = (name, ...inner) => make("section", {}, make("h3", {}, told(prettified(name))), inner);
const sentences = (list) => make("ul", {}, list.slice(0, MOST_ROWS).map((one) => make("li", { dir: "auto" }, one)));

// A link that saves the picture that an answer is, under the name with the ending of its format.
export const saving = (address, { media_type: type }, name = "picture") => make("a", { class: "button", href: address, download: `${name}.${endingOf(type)}` }, say("Save"));

// Its place is there before it is.
function pictured(address, { width, height } = {}) {
  const node = make("img", { class: "given", src: address, alt: "" });
  if (!(width >= 1 && height >= 1)) return node;
  node.style.setProperty("--w", width);
  node.style.setProperty("--h", height);
  return node;
}

function table(rows, path) {
  const names = new Set(rows.slice(0, MOST_ROWS).flatMap((row) => Object.keys(row).filter((name) => !isEmpty(row[name]))));
  const isPictured = (name) => typeof rows[0][name] === "string" && inline(rows[0][name]) !== null;
  const columns = [...names].toSorted((one, other) => isPictured(other) - isPictured(one));
  const head = make("tr", {}, columns.map((name) => make("th", { scope: "col" }, told(prettified(name)))));
  const lines = rows.slice(0, MOST_ROWS).map((row, place) => make("tr", { "data-path": `${path}.${place}` }, columns.map((name) => make("td", {}, cell(name, row[name])))));
  const more = rows.length > MOST_ROWS && make("p", { class: "quiet" }, say("and {count} more, in JSON", { count: rows.length - MOST_ROWS }));
  return [make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, lines))), more];
}

function cell(name, value, depth = DEEPEST) {
  if (value === undefined || isEmpty(value)) return "";
  if (typeof value === "number") return amount(name, value);
  if (typeof value === "boolean") return say(value ? "yes" : "no");
  if (typeof value === "string") return worded(value);
  if (name === "image" && isSized({ image: value })) return sizeOf(value);
  if (isPoints(value)) return say("{count} points", { count: Object.keys(value).length });
  if (isBox(value)) return edges([value.left, value.right], [value.top, value.bottom]);
  if (Array.isArray(value)) return listed(value);
  if (depth <= 1) return "…";
  return Object.entries(value).filter(([, one]) => !isEmpty(one)).map(([inner, one]) => make("div", { class: "inner" }, told(prettified(inner)), " ", cell(inner, one, depth - 1)));
}

function amount(name, value) {
  const isPart = value >= 0 && value <= 1;
  if (isPart && SHARES.test(name)) return meter(value);
  return isPart && RATES.test(name) ? percent(value) : String(Math.round(value * 1000) / 1000);
}

function worded(value) {
  if (/^#[0-9a-f]{6}$/i.test(value)) {
    const patch = make("i", { class: "patch" });
    patch.style.setProperty("background", value);
    return [patch, make("code", {}, value)];
  }
  if (inline(value)) return pictured(value);
  return make("bdi", {}, value.length > LONGEST ? `${value.slice(0, LONGEST)}…` : value);
}

// From the upper left corner to the lower right one.
function edges(xs, ys) {
  const [left, right] = [Math.min(...xs), Math.max(...xs)].map(Math.round);
  const [top, bottom] = [Math.min(...ys), Math.max(...ys)].map(Math.round);
  return make("span", { class: "place" }, `${left}, ${top} – ${right}, ${bottom}`);
}

const sizeOf = ({ width, height, format }) => `${width} × ${height} ${format ?? ""}`;

function listed(value) {
  if (value.every((one) => typeof one === "number") && value.length > 4) return say("{count} numbers", { count: value.length });
  if (value.length > 2 && value.every(isPlace)) return edges(value.map(([x]) => x), value.map(([, y]) => y));
  return make("bdi", {}, value.map((one) => (typeof one === "object" ? JSON.stringify(one) : String(one))).join(", ").slice(0, LONGEST));
}

function meter(value) {
  const bar = make("span", { class: "meter", "aria-hidden": "true" }, make("i"));
  bar.style.setProperty("--value", value);
  return make("span", { class: "share" }, bar, percent(value));
}

// How the answer came about, in one line; and what was tried before.
function about({ meta, image }) {
  const words = [];
  meta = isObject(meta) ? meta : {};
  if (image) words.push(sizeOf(image));
  if (meta.engine) words.push(meta.engine);
  if (meta.cached) words.push(say("remembered"));
  else if (Number.isFinite(meta.seconds)) words.push(seconds(meta.seconds));
  if (meta.usage) words.push(say("{count} tokens", { count: (meta.usage.input_tokens || 0) + (meta.usage.output_tokens || 0) }));
  if (Number.isFinite(meta.usage?.cost)) words.push(`$${meta.usage.cost.toPrecision(2)}`);
  const skipped = (Array.isArray(meta.skipped) ? meta.skipped : []).map((one) => make("li", {}, make("code", {}, one.engine), " ", one.message));
  return [
    make("p", { class: "about quiet" }, words.map((word) => make("span", {}, word))),
    skipped.length ? make("details", {}, make("summary", {}, say("What did not answer")), make("ul", {}, skipped)) : null,
  ];
}

export function errorView(error) {
  const message = String(error.message);
  const node = make("div", { class: "error", role: "alert" }, make("p", { dir: "auto" }, message.includes("`") ? prose(message) : told(message)));
  const small = [error.code, error.trace].filter(Boolean).map((one) => make("code", {}, one));
  if (small.length) node.append(make("p", { class: "quiet" }, small));
  const wait = error.wait ?? error.retry_after_seconds;
  if (wait) node.append(make("p", {}, say("Try again in {seconds} s.", { seconds: Math.ceil(wait) })));
  return node;
}

// An outcome in a few words: its first names or texts.
export function brief({ result, error }) {
  if (error) return make("bdi", {}, error.code || error.message);
  if (!isObject(result)) return null;
  const parts = [result, ...Object.values(result).filter(isObject)].flatMap(Object.values);
  const first = parts.find((one) => isTable(one) && typeof (one[0].name ?? one[0].text) === "string");
  const words = first ? first.slice(0, 3).map((one) => one.name ?? one.text).join(", ") : result.text;
  return typeof words === "string" && words ? make("bdi", {}, words.slice(0, 200)) : null;
}

// ---- tabs: the table, JSON, and how to ask for it elsewhere. Only what is looked at is made

const shortened = (name, value) => (typeof value === "string" && value.length > LONGEST ? `${value.slice(0, 60)}… (${value.length})` : value);

const block = (words, whole = () => words) => make("div", { class: "block" }, copied(whole), make("pre", { tabindex: 0 }, make("code", {}, words)));

function jsonOf(value) {
  const words = JSON.stringify(value, shortened, 2);
  const shown = words.length > LONGEST_JSON ? `${words.slice(0, LONGEST_JSON)}\n…` : words;
  return block(shown, () => JSON.stringify(value, null, 2));
}

let chosen = "Answer"; // stays when another answer comes

export const showsCommands = () => chosen === "curl" || chosen === "Python";

// No answer, whatever is in it, spoils the page.
function shownOr(view) {
  try {
    return view() || make("p", { class: "quiet" }, say("There is no answer yet."));
  } catch (error) {
    return errorView({ message: "This answer cannot be shown.", code: error.name });
  }
}

// `answer`: its `value`, and `node()`, which shows it; or null.
export function tabbed(answer, commands) {
  const views = {
    Answer: () => answer?.node(),
    JSON: () => answer && jsonOf(answer.value),
    curl: () => block(commands.curl),
    Python: () => block(commands.python),
  };
  const body = make("div", { role: "tabpanel", id: "panel" });
  const tabs = Object.keys(views).map((name) => make("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel" }, told(name)));
  const show = (name) => {
    chosen = name;
    tabs.forEach((tab) => {
      tab.setAttribute("aria-selected", tab.id === `tab-${name}`);
      tab.tabIndex = tab.id === `tab-${name}` ? 0 : -1;
    });
    body.setAttribute("aria-labelledby", `tab-${name}`);
    body.replaceChildren(shownOr(views[name]));
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => show(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      show(next.id.slice(4));
      next.focus();
    });
  });
  const list = make("div", { role: "tablist" }, tabs);
  show(chosen);
  return make("div", { class: "tabbed" }, list, body);
}

