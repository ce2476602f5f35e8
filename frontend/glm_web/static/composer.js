// Where a message is written: its text, and its pictures by button, clipboard or drop.

import { label, say, t } from "./i18n.js";
import { pictureButton, readPicture } from "./pictures.js";

const form = document.querySelector("#composer");
const prompt = document.querySelector("#prompt");
const list = document.querySelector("#attachments");
const files = document.querySelector("#files");
const notice = document.querySelector("#notice");
const sendButton = document.querySelector("#send");
const stopButton = document.querySelector("#stop");
const dropTarget = document.querySelector("#drop-target");

// The server's own; asked for at the start.
let limits = { max_images: 16, max_image_bytes: 20 * 1024 ** 2 };
let pictures = [];
let countEarlier = () => 0;
// Pictures that are being read; what is sent before they are there would be sent without them.
let reading = 0;

/**
 * Connect everything.
 * @param {() => void} send the reader wants to send what is there
 * @param {() => void} stop the reader wants the answer to end
 * @param {() => number} earlierPictures those of the conversation, which are sent again
 */
export async function setUpComposer(send, stop, earlierPictures) {
  countEarlier = earlierPictures;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  stopButton.addEventListener("click", stop);
  prompt.addEventListener("input", refresh);
  prompt.addEventListener("keydown", (event) => {
    // Enter also ends a word in an input method, as for Chinese: that sends nothing.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
      event.preventDefault();
      send();
    }
  });
  document.querySelector("#attach").addEventListener("click", () => files.click());
  files.addEventListener("change", async () => {
    await attach([...files.files]);
    files.value = "";
  });
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    if (!pasted.length) return;
    // Spreadsheets put a picture of the cells beside their text.
    if (["text/plain", "text/html"].every((type) => event.clipboardData.types.includes(type))) return;
    event.preventDefault();
    attach(pasted);
  });
  setUpDrop();
  refresh();
  try {
    limits = await (await fetch("limits.json")).json();
  } catch {
    // The defaults will do: the server checks by itself.
  }
}

/** What is there to send; null if nothing is, or not all is there yet. */
export function draft() {
  const text = prompt.value.trim();
  if (reading) return null;
  return text || pictures.length ? { text, pictures } : null;
}

/** Add text and pictures to what is there. */
export function putBack(text, more) {
  prompt.value = [text, prompt.value].filter(Boolean).join("\n");
  pictures = [...more, ...pictures];
  showPictures();
  prompt.focus();
}

/** Begin a new message. */
export function clearDraft() {
  prompt.value = "";
  pictures = [];
  notify("");
  showPictures();
}

/** Whether an answer is under way: then there is a stop button instead of the send button. */
export function setBusy(busy) {
  const focused = [sendButton, stopButton].includes(document.activeElement);
  sendButton.hidden = busy;
  stopButton.hidden = !busy;
  if (focused) (busy ? stopButton : prompt).focus(); // what is hidden cannot have it
}

/** A short message above the text; "" for none. */
export function notify(key, values = {}) {
  notice.hidden = !key;
  if (key) say(notice, key, values);
}

async function attach(chosen) {
  notify("");
  reading++;
  refresh();
  for (const file of chosen) {
    if (countEarlier() + pictures.length >= limits.max_images) {
      notify("tooManyPictures", { count: limits.max_images });
      break;
    }
    try {
      const picture = await readPicture(file, limits.max_image_bytes);
      pictures = [...pictures, picture]; // others may have come or gone meanwhile
      showPictures();
    } catch {
      notify("notAPicture", { name: file.name || t("picture") });
    }
  }
  reading--;
  refresh();
  prompt.focus();
}

function showPictures() {
  list.replaceChildren(
    ...pictures.map((picture) => {
      const item = document.createElement("li");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.className = "remove";
      label(remove, "remove", { name: picture.name });
      remove.append(icon("close"));
      remove.addEventListener("click", () => {
        pictures = pictures.filter((other) => other !== picture);
        showPictures();
        prompt.focus();
      });
      item.append(pictureButton(picture), remove);
      return item;
    }),
  );
  refresh();
}

/** One of icons.svg. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `icons.svg#${name}`);
  svg.append(use);
  return svg;
}

function refresh() {
  sendButton.disabled = !draft();
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

function setUpDrop() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0; // dragging over a child enters it before it leaves the parent
  document.addEventListener("dragenter", (event) => {
    if (hasFiles(event)) dropTarget.hidden = ++depth === 0;
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event)) dropTarget.hidden = --depth <= 0;
  });
  document.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    dropTarget.hidden = true;
    attach([...event.dataTransfer.files]);
  });
}
