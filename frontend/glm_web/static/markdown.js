// Markdown of the model as nodes. The text is untrusted: its HTML is shown as text, and what the
// Markdown becomes is sanitised before it is in the page.

import { Lexer, Marked } from "./vendor/marked/marked.esm.js";
import DOMPurify from "./vendor/dompurify/purify.es.mjs";

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li",
    "ol", "p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["align", "class", "href", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["align", "start"],
  RETURN_DOM_FRAGMENT: true,
};
const KATEX_LIMITS = { throwOnError: false, trust: false, maxSize: 20, maxExpand: 200 };

const escape = (text) =>
  text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);

const formula = (tex, display) =>
  `<span class="formula${display ? " display" : ""}">${escape(tex)}</span>`;

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    // No picture of another host: only its words.
    image: ({ text, href }) => escape(text || href),
  },
  extensions: [
    {
      name: "displayFormula",
      level: "block",
      start: (source) => source.match(/\$\$|\\\[/)?.index,
      tokenizer(source) {
        const match = /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])\s*(?:\n|$)/.exec(source);
        return match && { type: "displayFormula", raw: match[0], tex: match[1] ?? match[2] };
      },
      renderer: ({ tex }) => `<p>${formula(tex, true)}</p>`,
    },
    {
      name: "inlineFormula",
      level: "inline",
      start: (source) => source.match(/\$|\\\(|\\\[/)?.index,
      tokenizer(source) {
        // "$5 and $6" are prices: a formula neither begins nor ends with a space, and no digit
        // follows it.
        const match =
          /^\$\$([^$]+?)\$\$/.exec(source) ??
          /^\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)/.exec(source) ??
          /^\\\(([\s\S]+?)\\\)/.exec(source) ??
          /^\\\[([\s\S]+?)\\\]/.exec(source);
        return match && { type: "inlineFormula", raw: match[0], tex: match[1] };
      },
      renderer: ({ tex }) => formula(tex, false),
    },
  ],
});

/** Shows Markdown that grows: only blocks that have changed are made anew. */
export class MarkdownView {
  #element;
  #blocks = [];

  constructor(element) {
    this.#element = element;
  }

  /** Show this text. */
  show(text) {
    const tokens = new Lexer(marked.defaults).lex(text);
    const { links } = tokens;
    const shown = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    shown.forEach((token, index) => {
      const old = this.#blocks[index];
      if (old?.raw === token.raw) return;
      const nodes = [...render(Object.assign([token], { links })).childNodes];
      if (old) {
        old.nodes.forEach((node, at) => (at ? node.remove() : node.replaceWith(...nodes)));
      } else {
        this.#element.append(...nodes);
      }
      this.#blocks[index] = { raw: token.raw, nodes };
    });
    for (const gone of this.#blocks.splice(shown.length)) gone.nodes.forEach((node) => node.remove());
  }
}

function render(tokens) {
  const fragment = DOMPurify.sanitize(marked.parser(tokens), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = document.createElement("div");
    frame.className = "table";
    table.replaceWith(frame);
    frame.append(table);
  }
  const formulas = fragment.querySelectorAll("span.formula");
  if (formulas.length) renderFormulas([...formulas]);
  if (!fragment.childNodes.length) fragment.append(document.createTextNode(""));
  return fragment;
}

let katex = null;

/** KaTeX is large, so it is loaded with the first formula. */
function renderFormulas(spans) {
  const show = ({ default: library }) => {
    katex = library;
    for (const span of spans) {
      const displayMode = span.classList.contains("display");
      library.render(span.textContent, span, { ...KATEX_LIMITS, displayMode });
    }
  };
  // At once where it is there, so that nothing flickers while the text grows.
  if (katex) show({ default: katex });
  else import("./vendor/katex/katex.mjs").then(show);
}
