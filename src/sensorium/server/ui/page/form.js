// The form of a task: which one it is, its fields, and how it is asked.
import { button, make, prettified, say, told } from "./dom.js";
import { controlOf, isLong } from "./fields.js";

const MOST_SHOWN = 2; // small fields of a task that are shown at once

// Puts the task's form into the node. Gives its `controls`, ticks, buttons and `status`, and `values()`.
// `acts` has `choose(task)`, `run()`, `stop()` and `changed()`, for what is shown of the fields elsewhere.
export function drawForm(node, task, { tasks, models }, acts) {
  const controls = task.fields.map((field) => controlOf(field, modelsFor(task, models)));
  const own = controls.filter(({ field }) => !field.shared);
  const first = [...own.filter(({ field }) => isLong(field)).slice(0, 1), ...own.filter(({ field }) => isSmall(field)).slice(0, MOST_SHOWN)];
  const rest = controls.filter((control) => !first.includes(control));
  const form = {
    go: make("button", { class: "main", id: "go" }, say("Look")),
    stop: button("Stop", acts.stop, { id: "stop", disabled: true }),
    together: tickOf("together", "All pictures in one question", true),
    later: tickOf("later", "As a job, which goes on without this page", false),
    status: make("p", { id: "status", role: "status" }),
    values: () => valuesOf(controls),
  };
  node.replaceChildren(
    chooser(task, tasks, acts.choose),
    make("p", { class: "summary" }, told(task.summary)),
    ...first.map((control) => control.node),
    rest.length ? make("details", { class: "more" }, make("summary", {}, say("More settings")), rest.map((control) => control.node)) : "",
    form.together.node, form.later.node,
    make("div", { class: "buttons" }, form.go, form.stop), form.status,
  );
  node.onsubmit = (event) => {
    event.preventDefault();
    acts.run();
  };
  node.oninput = acts.changed;
  node.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) node.requestSubmit();
  };
  return form;
}

function modelsFor(task, models) {
  const usable = models.filter((one) => one.name && ["ready", "loaded"].includes(one.state));
  return [...new Set(usable.filter((one) => one.tasks.includes(task.name) || one.tasks.includes("*")).map((one) => one.name))];
}

// Numbers and choices; words that may be left out are not looked for at once.
const isSmall = (field) => field.required || Boolean(field.enum || field.items?.enum) || ["boolean", "integer", "number"].includes(field.type);

function tickOf(id, key, checked) {
  const box = make("input", { type: "checkbox", id });
  box.checked = checked;
  return { box, node: make("div", { class: "field check" }, box, make("label", { for: id }, say(key))) };
}

function chooser(current, tasks, choose) {
  return make("fieldset", { class: "tasks" }, make("legend", {}, say("What to do")), tasks.map((task) => {
    const radio = make("input", { type: "radio", name: "task", value: task.name, id: `task-${task.name}`, checked: task === current });
    radio.addEventListener("change", () => choose(task));
    return [radio, make("label", { for: `task-${task.name}` }, told(prettified(task.name)))];
  }));
}

// The values that differ from what the server has anyway; raises for JSON that is none.
function valuesOf(controls) {
  const pairs = controls.map((control) => [control.name, control.value()]);
  return Object.fromEntries(pairs.filter(([, value]) => value !== undefined));
}
