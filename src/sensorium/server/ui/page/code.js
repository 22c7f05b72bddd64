// What is asked, as a command and as Python.
import { asText } from "./fields.js";
import { address, folder, key } from "./server.js";

// Control signs in a file's name could do something where the command is pasted.
const harmless = (name) => name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "_");

const shell = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

// curl has its own signs in what stands after `@`.
function attached(field, name) {
  const safe = harmless(name);
  return shell(/[;,"\\]/.test(safe) ? `${field}=@"${safe.replace(/["\\]/g, "\\$&")}"` : `${field}=@${safe}`);
}

// `parts`: pictures as [field, picture]; `values`: the other fields by name.
export function curl(path, parts, values) {
  const words = ["curl"];
  if (key()) words.push('-H "Authorization: Bearer $SENSORIUM_KEY"');
  for (const [field, picture] of parts) words.push(picture.file ? `-F ${attached(field, picture.name)}` : `--form-string ${shell(`${field}=${harmless(picture.url)}`)}`);
  for (const [name, value] of Object.entries(values)) words.push(`--form-string ${shell(`${name}=${asText(value)}`)}`);
  return [...words, shell(address(path).href)].join(words.length > 2 ? " \\\n  " : " ");
}

// JSON's texts, numbers and lists are Python's too.
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${literal(name)}: ${literal(one)}`).join(", ")}}`;
  return JSON.stringify(value);
}

// A task's pictures by place; further ones of the same question by the name of their field.
function given(task, names, together) {
  if (!together) return names.length > 1 ? [`[${names.join(", ")}]`] : names;
  if (!task.singles.length || !task.list || names.length < 2) return names;
  return [names[0], `${task.list}=[${names.slice(1).join(", ")}]`];
}

export function python(task, pictures, together, values) {
  const names = pictures.map((picture) => literal(harmless(picture.file ? picture.name : picture.url)));
  const call = [...given(task, names, together), ...Object.entries(values).map(([name, value]) => `${name}=${literal(value)}`)].join(", ");
  const connected = [literal(folder.href), ...(key() ? ['key=os.environ["SENSORIUM_KEY"]'] : [])].join(", ");
  const asked = `server.${task.name}(${call})`;
  return [
    ...(key() ? ["import os", ""] : []),
    "import sensorium",
    "",
    `with sensorium.connect(${connected}) as server:`,
    ...(names.length > 1 && !together ? [`    for outcome in ${asked}:`, "        print(outcome)"] : [`    print(${asked})`]),
  ].join("\n");
}
