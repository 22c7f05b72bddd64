// What is asked, as a command and as Python.
import { asText } from "./fields.js";
import { endingLike, endingOf, harmless } from "./names.js";
import { address, folder, key } from "./server.js";

const shell = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

// curl has its own signs in what stands after `@`.
function attached(field, name) {
  const safe = harmless(name);
  return shell(/[;,"\\]/.test(safe) ? `${field}=@"${safe.replace(/["\\]/g, "\\$&")}"` : `${field}=@${safe}`);
}

// What is asked for at once, with the file that its answer goes into where that is a picture: of several, each has its number.
function asked(task, pictures, together, values) {
  if (!task.draws || !pictures.length) return [[pictures, ""]];
  const each = together ? [pictures] : pictures.map((picture) => [picture]);
  const ending = (picture) => (values.format ? endingOf(values.format) : endingLike(picture));
  return each.map((some, place) => [some, `out${each.length > 1 ? `-${place + 1}` : ""}.${ending(some[0])}`]);
}

// `parts`: pictures as [field, picture]; `values`: the other fields by name.
export function curl(task, parts, together, values) {
  const place = address(task.path);
  if (task.draws) place.searchParams.set("as", "image");
  const fields = new Map(parts.map(([field, picture]) => [picture, field]));
  const commands = asked(task, [...fields.keys()], together, values);
  return commands.map(([some, file]) => command(place, some.map((picture) => [fields.get(picture), picture]), values, file)).join("\n");
}

function command(place, parts, values, file) {
  const words = [file ? "curl -f" : "curl"]; // without -f an error would be written into the picture's file
  if (key()) words.push('-H "Authorization: Bearer $SENSORIUM_KEY"');
  for (const [field, picture] of parts) words.push(picture.file ? `-F ${attached(field, picture.name)}` : `--form-string ${shell(`${field}=${harmless(picture.url)}`)}`);
  for (const [name, value] of Object.entries(values)) words.push(`--form-string ${shell(`${name}=${asText(value)}`)}`);
  words.push(shell(place.href) + (file && ` -o ${shell(file)}`));
  return words.join(words.length > 3 ? " \\\n  " : " ");
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
  const connected = [literal(folder.href), ...(key() ? ['key=os.environ["SENSORIUM_KEY"]'] : [])].join(", ");
  return [
    ...(key() ? ["import os", ""] : []),
    "import sensorium",
    "",
    `with sensorium.connect(${connected}) as server:`,
    ...asked(task, pictures, together, values).flatMap(([some, file]) => used(called(task, some, together, values), file, some.length > 1 && !together)),
  ].join("\n");
}

function called(task, pictures, together, values) {
  const names = pictures.map((picture) => literal(harmless(picture.file ? picture.name : picture.url)));
  const words = [...given(task, names, together), ...Object.entries(values).map(([name, value]) => `${name}=${literal(value)}`)];
  return `server.${task.name}(${words.join(", ")})`;
}

function used(call, file, givesSeveral) {
  if (file) return [`    ${call}.save(${literal(file)})`];
  return givesSeveral ? [`    for outcome in ${call}:`, "        print(outcome)"] : [`    print(${call})`];
}
