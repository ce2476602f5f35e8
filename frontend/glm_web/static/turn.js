// One turn: the reader's message, the answer as it comes, and how both look.

import { icon } from "./composer.js";
import { label, say } from "./i18n.js";
import { MarkdownView } from "./markdown.js";
import { pictureButton } from "./pictures.js";

const TICK = 200;
// A short answer may arrive in one piece: the time between its tokens is none, then.
const LEAST_MEASURED = 50;

const ERRORS_BY_CODE = {
  gone: "errorGone",
  broken: "errorBroken",
  context_length_exceeded: "errorTooLong",
  rate_limit_exceeded: "errorRate",
};
const ERRORS_BY_STATUS = { 401: "errorKey", 413: "errorTooLarge", 429: "errorFull", 503: "errorLoading" };

/** A message and its answer. */
export class Turn {
  thought = "";
  content = "";
  boxes = [];
  /** waiting, thinking, answering; then done, stopped or failed. */
  state = "waiting";
  finishReason = null;
  usage = null;
  error = null;

  #sent = performance.now();
  #first = 0;
  #firstTokens = 0;
  #last = 0;
  #thoughtSeconds = 0;
  #frame = 0;
  #timer = setInterval(() => this.#showThoughtTime(), TICK);

  /**
   * @param {{text: string, pictures: import("./pictures.js").Picture[]}} message
   * @param {{retry: () => void, edit: () => void}} actions of the last turn
   */
  constructor(message, actions) {
    Object.assign(this, message);
    this.#build(actions);
  }

  get ended() {
    return ["done", "stopped", "failed"].includes(this.state);
  }

  /** Whether the model is told of it in later turns: not of what it could not read. */
  get counts() {
    return this.state !== "failed" || this.content !== "";
  }

  /** Its messages for the API. */
  async messages(detail) {
    const images = await Promise.all(
      this.pictures.map(async (picture) => ({
        type: "image_url",
        image_url: { url: await picture.dataUri(), ...(detail === "low" && { detail }) },
      })),
    );
    const text = this.text ? [{ type: "text", text: this.text }] : [];
    const messages = [{ role: "user", content: [...images, ...text] }];
    if (this.content) messages.push({ role: "assistant", content: this.content });
    return messages;
  }

  /** Take in a chunk of the stream. */
  take(chunk) {
    this.usage = chunk.usage ?? this.usage;
    const [choice] = chunk.choices;
    if (!choice) return;
    const { delta } = choice;
    const now = performance.now();
    if (delta.reasoning_content || delta.content) {
      if (!this.#first) {
        this.#first = now;
        this.#firstTokens = this.usage?.completion_tokens ?? 0;
      }
      this.#last = now;
    }
    if (delta.reasoning_content) {
      this.thought += delta.reasoning_content;
      this.state = "thinking";
      this.#thoughtSeconds = (now - this.#sent) / 1000;
    }
    if (delta.content) {
      this.content += delta.content;
      this.state = "answering";
    }
    this.boxes = delta.boxes ?? this.boxes;
    this.finishReason = choice.finish_reason ?? this.finishReason;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  /** No more will come: "done", "stopped", or "failed" with an error. */
  end(state, error = null) {
    clearInterval(this.#timer);
    this.state = state;
    this.error = error;
    this.#show();
  }

  // ---- how it looks ----

  #build({ retry, edit }) {
    const make = (tag, className, ...children) => {
      const element = document.createElement(tag);
      element.className = className;
      element.append(...children);
      return element;
    };
    const action = (name, handle) => {
      const button = make("button", "icon-button small", icon(name));
      button.dataset.action = name;
      label(button, name);
      button.addEventListener("click", () => handle(button));
      return button;
    };
    const pictures = make("div", "pictures", ...this.pictures.map((one) => pictureButton(one)));
    const text = make("p", "text", this.text);
    pictures.hidden = !this.pictures.length;
    text.hidden = !this.text;
    const editButton = action("edit", edit);
    editButton.classList.add("last-only");
    const user = make("div", "user", pictures, make("div", "said", editButton, text));

    this.summary = make("span", "");
    this.thoughtView = make("div", "markdown");
    this.details = make("details", "thought", make("summary", "", icon("chevron"), this.summary), this.thoughtView);
    this.details.hidden = true;
    this.waiting = make("p", "waiting", make("i", ""), make("i", ""), make("i", ""));
    this.waiting.role = "status";
    label(this.waiting, "waiting");
    this.contentView = make("div", "markdown content");
    this.boxesView = make("div", "boxes");
    this.errorView = make("div", "error");
    this.errorView.role = "alert";
    this.errorView.hidden = true;
    this.figures = make("span", "figures");
    this.retryButton = action("retry", retry);
    this.retryButton.classList.add("last-only");
    const meta = make("div", "actions", this.figures, action("copy", (button) => this.#copy(button)), this.retryButton);
    const answer = make("div", "answer", this.details, this.waiting, this.contentView, this.boxesView, this.errorView, meta);
    this.element = make("article", "turn", user, answer);
    this.element.dataset.state = this.state;

    this.thoughtMarkdown = new MarkdownView(this.thoughtView);
    this.contentMarkdown = new MarkdownView(this.contentView);
  }

  #show() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.element.dataset.state = this.state;
    this.waiting.hidden = this.state !== "waiting";
    this.details.hidden = !this.thought;
    this.thoughtMarkdown.show(this.thought);
    this.contentMarkdown.show(this.content);
    this.#showThoughtTime();
    if (this.ended) this.#showEnd();
  }

  #showThoughtTime() {
    if (!this.thought) return;
    if (this.state === "thinking") {
      const seconds = Math.floor((performance.now() - this.#sent) / 1000);
      say(this.summary, "thinkingFor", { seconds });
    } else {
      say(this.summary, "thoughtFor", { seconds: rounded(this.#thoughtSeconds) });
    }
  }

  #showEnd() {
    const seen = this.lastPicture;
    if (this.boxes.length && seen) {
      const note = document.createElement("p");
      note.className = "note";
      say(note, "boxesNote");
      this.boxesView.replaceChildren(pictureButton(seen, this.boxes), note);
    }
    const parts = [];
    const part = (key, values = {}, title = "") => {
      const element = document.createElement("span");
      say(element, key, values);
      if (title) {
        element.dataset.i18nLabel = title;
        label(element, title, values);
        element.ariaLabel = null; // the tooltip says more; the text is the name
      }
      parts.push(element);
    };
    if (this.#first) part("ttft", { seconds: rounded((this.#first - this.#sent) / 1000) }, "ttftTitle");
    if (this.usage) {
      const { completion_tokens: count, prompt_tokens: prompt } = this.usage;
      const writing = this.#last - this.#first;
      if (writing >= LEAST_MEASURED) {
        const rate = rounded((1000 * (count - this.#firstTokens)) / writing);
        part("speed", { rate }, "speedTitle");
      } else if (this.#last) {
        const rate = rounded((1000 * count) / (this.#last - this.#sent));
        part("speed", { rate }, "speedOfAllTitle");
      }
      part("tokens", {
        count,
        prompt,
        completion: count,
        images: this.usage.prompt_tokens_details?.image_tokens ?? 0,
        reasoning: this.usage.completion_tokens_details?.reasoning_tokens ?? 0,
      }, "tokensTitle");
    }
    if (this.finishReason === "length") part("cut");
    if (this.state === "stopped") part("stopped");
    if (this.state === "done" && !this.content.trim()) part("noAnswer");
    this.figures.replaceChildren(...parts);
    if (this.error) this.#showError();
  }

  #showError() {
    const { status, code, message, retryAfter } = this.error;
    const seconds = retryAfter || 1;
    const title = document.createElement("strong");
    say(title, ERRORS_BY_CODE[code] ?? ERRORS_BY_STATUS[status] ?? "errorTitle", { seconds });
    const words = document.createElement("p");
    words.append(message);
    this.errorView.replaceChildren(icon("alert"), title, words);
    if (!this.counts) {
      const note = document.createElement("p");
      note.className = "note";
      say(note, "notInHistory");
      this.errorView.append(note);
    }
    this.errorView.hidden = false;
    if (status === 429) this.#countDown(seconds);
  }

  /** The server said when: until then, asking again would be in vain. */
  #countDown(seconds) {
    this.retryButton.disabled = seconds > 0;
    label(this.retryButton, seconds > 0 ? "retryIn" : "retry", { seconds });
    if (seconds > 0) setTimeout(() => this.#countDown(seconds - 1), 1000);
  }

  async #copy(button) {
    await copyText(this.content || this.thought);
    button.replaceChildren(icon("check"));
    label(button, "copied");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      label(button, "copy");
    }, 1500);
  }
}

/** Browsers give the clipboard only to pages of https and of this machine; others get the old way. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return;
  } catch {
    // There is none, or the reader has not allowed it.
  }
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

function rounded(number) {
  return number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number.toFixed(2);
}
