// The page: a conversation, kept in memory only, and what it is made with.

import { modelName, streamChat } from "./api.js";
import { clearDraft, draft, notify, putBack, setBusy, setUpComposer } from "./composer.js";
import { setUpExamples } from "./examples.js";
import { switchLanguage, translate } from "./i18n.js";
import { store } from "./stored.js";
import {
  apiKey, closeOnBackdrop, detail, openSettings, requestFields, setUpSettings, systemPrompt,
} from "./settings.js";
import { mayAsk, watchHealth } from "./status.js";
import { Turn } from "./turn.js";

const NEAR_THE_END = 40;

const conversation = document.querySelector("#conversation");
const scroll = document.querySelector("#scroll");
const announcer = document.querySelector("#announcer");

let turns = [];
let model = "";
let controller = null; // of the answer that is under way

function send() {
  const message = draft();
  if (message && !controller && ask(message)) clearDraft();
}

/** Ask in a new turn; returns whether it could be done. */
function ask(message) {
  if (!mayAsk()) {
    notify("waitForServer");
    return false;
  }
  const turn = new Turn(message, { retry: () => retry(turn), edit: () => edit(turn) });
  turns.push(turn);
  conversation.append(turn.element);
  document.body.classList.add("talking");
  scroll.scrollTop = scroll.scrollHeight;
  answer(turn);
  return true;
}

async function answer(turn) {
  const earlier = turns.filter((one) => one !== turn && one.counts);
  turn.lastPicture = [...earlier, turn].flatMap((one) => one.pictures).at(-1);
  const own = new AbortController();
  controller = own;
  setBusy(true);
  try {
    model ||= await modelName(apiKey());
    const body = {
      model,
      messages: await messages([...earlier, turn]),
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
      ...requestFields(Boolean(turn.lastPicture)),
    };
    for await (const chunk of streamChat(body, apiKey(), own.signal)) turn.take(chunk);
    turn.end("done");
  } catch (error) {
    if (own.signal.aborted) turn.end("stopped");
    else turn.end("failed", error);
    // It may be the server's: look now, not later.
    watchHealth();
  } finally {
    // Another conversation may have begun meanwhile.
    if (controller === own) {
      controller = null;
      setBusy(false);
    }
  }
  announcer.textContent = turn.content;
}

async function messages(told) {
  const system = systemPrompt() ? [{ role: "system", content: systemPrompt() }] : [];
  const each = await Promise.all(told.map((turn) => turn.messages(detail())));
  return [...system, ...each.flat()];
}

function stop() {
  controller?.abort();
}

function retry(turn) {
  if (controller || !mayAsk()) {
    if (!controller) notify("waitForServer");
    return;
  }
  if (turn.error?.status === 401 && !apiKey()) {
    openSettings("key");
    return;
  }
  remove(turn);
  ask({ text: turn.text, pictures: turn.pictures });
}

function edit(turn) {
  stop();
  remove(turn);
  putBack(turn.text, turn.pictures);
}

function remove(turn) {
  turns = turns.filter((one) => one !== turn);
  turn.element.remove();
  document.body.classList.toggle("talking", turns.length > 0);
}

function newChat() {
  stop();
  for (const picture of turns.flatMap((turn) => turn.pictures)) URL.revokeObjectURL(picture.url);
  turns = [];
  conversation.replaceChildren();
  document.body.classList.remove("talking");
  clearDraft();
  document.querySelector("#prompt").focus();
}

async function showModelName() {
  try {
    model = await modelName(apiKey());
    document.querySelector("#model-name").textContent = model;
    document.title = model;
    notify("");
  } catch (error) {
    if (error.status === 401) notify("errorKey");
  }
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  store("glm.theme", root.dataset.theme);
}

/** The end stays in view while the answer grows, unless the reader has scrolled up. */
function followTheEnd() {
  let follows = true;
  scroll.addEventListener("scroll", () => {
    follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_THE_END;
  });
  new ResizeObserver(() => {
    if (follows && turns.length) scroll.scrollTop = scroll.scrollHeight;
  }).observe(conversation);
}

translate();
setUpSettings(showModelName);
setUpExamples((message) => {
  if (!controller && !ask(message)) putBack(message.text, message.pictures);
});
setUpComposer(send, stop, () => turns.filter((one) => one.counts).flatMap((one) => one.pictures).length);
closeOnBackdrop(document.querySelector("#lightbox"));
followTheEnd();
document.querySelector("#new-chat").addEventListener("click", newChat);
document.querySelector("#toggle-theme").addEventListener("click", switchTheme);
document.querySelector("#toggle-language").addEventListener("click", switchLanguage);
document.addEventListener("serverstate", ({ detail: state }) => {
  if (state !== "ready") return;
  notify("");
  showModelName();
});
document.addEventListener("keydown", (event) => {
  // Escape also closes an input method's list of words.
  if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) stop();
});
// Where there is room for a keyboard; on a phone it would cover the page.
if (matchMedia("(pointer: fine)").matches) document.querySelector("#prompt").focus();
watchHealth();
