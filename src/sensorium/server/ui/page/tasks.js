// What the server can do, as its OpenAPI document tells: tasks with their pictures and fields.

let spec = null;

export function understand(document) {
  spec = document;
  const tasks = Object.entries(spec.paths).flatMap(([path, item]) => taskOf(path, item.post));
  const everywhere = shared(tasks);
  return tasks.map((task) => ({ ...task, fields: task.fields.map((field) => ({ ...field, shared: everywhere.has(field.name) })) }));
}

function taskOf(path, operation) {
  const content = operation?.requestBody?.content;
  const form = content?.["multipart/form-data"]?.schema;
  if (!form || !(operation.tags || []).includes("tasks") || !isWord(operation.operationId)) return [];
  const typed = content["application/json"]?.schema || form;
  const files = Object.keys(form.properties).filter((name) => isFile(form.properties[name]));
  const lists = files.filter((name) => plain(typed.properties[name]).type === "array");
  const required = new Set(typed.required || []);
  return [{
    path,
    name: operation.operationId,
    summary: operation.summary || "",
    singles: files.filter((name) => !lists.includes(name)), // fields for one picture each
    list: lists[0] || null, // the field for any number of pictures of one request
    most: most(files, lists.length ? plain(typed.properties[lists[0]]).maxItems || Infinity : 0),
    least: files.filter((name) => required.has(name)).reduce((sum, name) => sum + (plain(typed.properties[name]).minItems || 1), 0),
    says: Boolean(answerOf(operation).properties?.text), // its answer is words, which can be told as they come
    draws: (operation.parameters || []).some((one) => one.name === "as" && one.schema?.enum?.includes("image")), // its answer can be a picture
    meanings: Object.fromEntries(Object.entries(answerOf(operation).properties || {}).map(([name, one]) => [name, inOneLine(one?.description || "")])),
    fields: Object.entries(form.properties).filter(([name]) => isWord(name) && !files.includes(name) && name !== "stream")
      .map(([name, one]) => ({ name, required: required.has(name), ...plain(one), description: inOneLine(one.description || "") })),
  }];
}

// Pictures of one question, of which a list takes so many; a task about one picture takes others by themselves.
const most = (files, listed) => (listed ? listed + files.length - 1 : files.length < 2 ? Infinity : files.length);

const inOneLine = (words) => String(words).replaceAll("\n", " ").replaceAll("`", "");

// Names become parts of commands and code: one that is no word is left out.
const isWord = (name) => /^[a-z_]\w*$/i.test(name);
const isFile = (schema) => schema.format === "binary" || schema.items?.format === "binary";

function answerOf(operation) {
  const schema = operation.responses?.["200"]?.content?.["application/json"]?.schema || {};
  return resolved((schema.oneOf || [schema])[0]);
}

function resolved(schema) {
  if (!schema?.$ref) return schema || {};
  return schema.$ref.slice(2).split("/").reduce((inside, word) => inside?.[word], spec) || {};
}

// Without the null of a field that may be left out.
function plain(schema = {}) {
  const choices = (schema.anyOf || []).filter((one) => one.type !== "null");
  return choices.length === 1 ? { ...schema, anyOf: undefined, ...resolved(choices[0]) } : { ...resolved(schema), ...schema };
}

// Names of fields that every task has: how it is served, rather than what it does.
function shared(tasks) {
  const names = tasks.map((task) => new Set(task.fields.map((field) => field.name)));
  return names.length > 1 ? names.reduce((both, one) => both.intersection(one)) : new Set();
}
