// The parameters of requests, kept in this browser.

import { store, stored } from "./stored.js";

const STORED = "glm.settings";
const DEFAULTS = {
  thinking: true,
  boxes: true,
  detail: "high",
  temperature: "",
  top_p: "",
  max_tokens: "2048",
  seed: "",
  system: "",
  key: "",
};

const dialog = document.querySelector("#settings");
const { elements } = dialog.querySelector("form");

let values = { ...DEFAULTS, ...parsed(stored(STORED)) };

/** The API key; empty for none. */
export function apiKey() {
  return values.key.trim();
}

/** How closely the model looks at pictures. */
export function detail() {
  return values.detail;
}

/** The system prompt; empty for none. */
export function systemPrompt() {
  return values.system.trim();
}

/** The fields of a request that the reader has set; others are left to the model. */
export function requestFields(hasPictures) {
  const fields = { chat_template_kwargs: { enable_thinking: values.thinking } };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (values[name] !== "") fields[name] = Number(values[name]);
  }
  if (values.boxes && hasPictures) fields.return_boxes = true;
  return fields;
}

/** Show the panel, with the cursor in one of its fields. */
export function openSettings(field = "") {
  if (!dialog.open) dialog.showModal();
  if (field) elements[field].focus();
}

/** Connect the panel; changed is called when the key may have changed. */
export function setUpSettings(changed) {
  fill();
  dialog.addEventListener("input", () => {
    for (const name of Object.keys(DEFAULTS)) {
      const field = elements[name];
      if (field.type === "checkbox") values[name] = field.checked;
      // What is out of range is left as it was; the browser marks it.
      else if (field.validity.valid) values[name] = field.value;
    }
    store(STORED, JSON.stringify(values));
  });
  document.querySelector("#open-settings").addEventListener("click", () => openSettings());
  document.querySelector("#reset-settings").addEventListener("click", () => {
    values = { ...DEFAULTS, key: values.key };
    store(STORED, JSON.stringify(values));
    fill();
  });
  dialog.addEventListener("close", changed);
  closeOnBackdrop(dialog);
}

/** A click beside a dialog closes it. */
export function closeOnBackdrop(one) {
  one.addEventListener("click", (event) => {
    if (event.target === one) one.close();
  });
}

function parsed(text) {
  try {
    return JSON.parse(text ?? "{}");
  } catch {
    return {};
  }
}

function fill() {
  for (const [name, value] of Object.entries(values)) {
    const field = elements[name];
    if (!field) continue; // of an older version of the page
    if (field.type === "checkbox") field.checked = value;
    else field.value = value;
  }
}
