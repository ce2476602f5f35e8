// All text of the page, in English and Chinese. The browser's language chooses, until the reader does.

import { store, stored } from "./stored.js";

const TEXTS = {
  en: {
    otherLanguage: "中文",
    switchLanguage: "切换到中文",
    newChat: "New chat",
    settings: "Parameters",
    theme: "Light or dark",
    welcome: "Ask about a picture",
    welcomeText: "Drop, paste or attach one or more pictures and ask. Everything stays on your server.",
    examples: "Try an example",
    demoNote: "The small demo model that comes with the server knows no more than coloured shapes and numbers.",
    conversation: "Conversation",
    attachments: "Attached pictures",
    message: "Message",
    placeholder: "Ask about a picture…",
    attach: "Attach pictures",
    hint: "Enter sends, Shift+Enter starts a new line",
    send: "Send",
    stop: "Stop",
    memoryNote: "Conversations are kept in this tab only; closing it or reloading forgets them.",
    dropHere: "Drop pictures here",
    close: "Close",
    done: "Done",
    reset: "Reset to defaults",
    thinking: "Think before answering",
    boxes: "Draw boxes that the answer names",
    detail: "Picture detail",
    detailHigh: "High: all that the model can see",
    detailLow: "Low: fewer tokens, faster",
    temperature: "Temperature",
    topP: "Top p",
    maxTokens: "Max tokens",
    seed: "Seed",
    modelDefault: "model's own",
    random: "random",
    systemPrompt: "System prompt",
    apiKey: "API key",
    noKey: "none",
    keyNote: "The key is kept in this browser, and goes nowhere but to this server.",
    picture: "Picture",
    enlarge: "Enlarge {name}",
    remove: "Remove {name}",
    waiting: "Waiting for the first token…",
    thinkingFor: "Thinking… {seconds} s",
    thoughtFor: "Thought for {seconds} s",
    copy: "Copy",
    copied: "Copied",
    retry: "Ask again",
    retryIn: "Ask again in {seconds} s",
    edit: "Edit",
    ttft: "TTFT {seconds} s",
    ttftTitle: "Time to first token",
    speed: "{rate} tokens/s",
    speedTitle: "Tokens after the first, by the time that they took",
    speedOfAllTitle: "All tokens, by the whole time: they came at once",
    tokens: "{count} tokens",
    tokensTitle: "{prompt} tokens of prompt, {images} of them for pictures; {completion} of answer, {reasoning} of them thought",
    cut: "cut off at the limit of tokens",
    stopped: "stopped",
    boxesNote: "The answer counts in thousandths of the picture's sides.",
    noAnswer: "The model gave no answer after its thought.",
    notInHistory: "This turn is left out of what the model is told next.",
    errorTitle: "That did not work",
    errorFull: "The server is full. Try again in {seconds} s.",
    errorRate: "You have reached your rate limit. Try again in {seconds} s.",
    errorKey: "The server asks for an API key. Enter it under Parameters.",
    errorTooLarge: "The pictures of this conversation are too large together. Send fewer, or begin a new chat.",
    errorTooLong: "The conversation is too long for the model. Begin a new chat, or lower the max tokens.",
    errorGone: "The server cannot be reached. Your message is still here.",
    errorBroken: "The connection broke off in the middle of the answer.",
    errorLoading: "The server cannot answer now.",
    tooManyPictures: "At most {count} pictures in one conversation.",
    notAPicture: "{name} is no picture that this browser or the server can read.",
    exampleMissing: "The example could not be loaded.",
    waitForServer: "The server is not ready. Your message stays here.",
    stateChecking: "Connecting",
    stateReady: "Ready",
    stateLoading: "Loading",
    stateFull: "Full",
    stateFailed: "Not working",
    stateDraining: "Stopping",
    stateGone: "Server gone",
    bannerLoading: "Not ready yet. You can write already; sending works as soon as the server is ready.",
    bannerFull: "The server is full; answers may take longer or be refused.",
    bannerFailed: "A part of the server has failed and is being looked after.",
    bannerDraining: "The server is shutting down.",
    bannerGone: "The server cannot be reached. This page goes on by itself when it is back.",
  },
  zh: {
    otherLanguage: "EN",
    switchLanguage: "Switch to English",
    newChat: "新对话",
    settings: "参数",
    theme: "浅色或深色",
    welcome: "看图提问",
    welcomeText: "拖入、粘贴或选择一张或多张图片，然后提问。所有数据都留在您自己的服务器上。",
    examples: "试试这些例子",
    demoNote: "服务器自带的小型演示模型只认识彩色图形和数字。",
    conversation: "对话",
    attachments: "已添加的图片",
    message: "消息",
    placeholder: "就图片提问……",
    attach: "添加图片",
    hint: "Enter 发送，Shift+Enter 换行",
    send: "发送",
    stop: "停止",
    memoryNote: "对话只保存在此标签页中，关闭或刷新后即消失。",
    dropHere: "将图片拖放到这里",
    close: "关闭",
    done: "完成",
    reset: "恢复默认",
    thinking: "先思考再回答",
    boxes: "在图片上画出回答中的框",
    detail: "图片精细度",
    detailHigh: "高：模型能看到的全部",
    detailLow: "低：更少 token，更快",
    temperature: "温度",
    topP: "Top p",
    maxTokens: "最大 token 数",
    seed: "随机种子",
    modelDefault: "模型默认",
    random: "随机",
    systemPrompt: "系统提示",
    apiKey: "API 密钥",
    noKey: "无",
    keyNote: "密钥保存在此浏览器中，只会发送给本服务器。",
    picture: "图片",
    enlarge: "放大 {name}",
    remove: "移除 {name}",
    waiting: "等待第一个 token……",
    thinkingFor: "思考中… {seconds} 秒",
    thoughtFor: "思考了 {seconds} 秒",
    copy: "复制",
    copied: "已复制",
    retry: "重新提问",
    retryIn: "{seconds} 秒后可重新提问",
    edit: "编辑",
    ttft: "首 token {seconds} 秒",
    ttftTitle: "首个 token 的时间（TTFT）",
    speed: "{rate} token/秒",
    speedTitle: "首个 token 之后的 token 数除以所用时间",
    speedOfAllTitle: "全部 token 数除以总时间：它们同时到达",
    tokens: "{count} 个 token",
    tokensTitle: "提示 {prompt} 个 token，其中图片 {images} 个；回答 {completion} 个，其中思考 {reasoning} 个",
    cut: "已达 token 上限，回答被截断",
    stopped: "已停止",
    boxesNote: "回答中的坐标以图片边长的千分之一为单位。",
    noAnswer: "模型思考后没有给出回答。",
    notInHistory: "这一轮不会再发给模型。",
    errorTitle: "请求失败",
    errorFull: "服务器已满，请在 {seconds} 秒后重试。",
    errorRate: "已达到您的请求频率上限，请在 {seconds} 秒后重试。",
    errorKey: "服务器需要 API 密钥，请在“参数”中填写。",
    errorTooLarge: "此对话中的图片总和过大。请减少图片，或开始新对话。",
    errorTooLong: "对话对模型来说太长了。请开始新对话，或减小最大 token 数。",
    errorGone: "无法连接服务器。您的消息还在这里。",
    errorBroken: "回答到一半时连接中断了。",
    errorLoading: "服务器现在无法回答。",
    tooManyPictures: "一次对话最多 {count} 张图片。",
    notAPicture: "{name} 不是浏览器或服务器能读取的图片。",
    exampleMissing: "示例加载失败。",
    waitForServer: "服务器尚未就绪。您的消息会保留在这里。",
    stateChecking: "连接中",
    stateReady: "就绪",
    stateLoading: "加载中",
    stateFull: "已满",
    stateFailed: "故障",
    stateDraining: "正在停止",
    stateGone: "服务器不可用",
    bannerLoading: "尚未就绪。您可以先写好问题，服务器就绪后即可发送。",
    bannerFull: "服务器已满，回答可能变慢或被拒绝。",
    bannerFailed: "服务器的一部分出现故障，正在恢复。",
    bannerDraining: "服务器即将停止。",
    bannerGone: "无法连接服务器。恢复后本页会自动继续。",
  },
};

const STORED = "glm.language";

let language = stored(STORED) ?? (navigator.language.startsWith("zh") ? "zh" : "en");

/** The reader's language, "en" or "zh". */
export function currentLanguage() {
  return language;
}

/** A text in the reader's language; {name} in it becomes values.name. */
export function t(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Say a text in an element, now and after each switch of the language. */
export function say(element, key, values = {}) {
  element.dataset.i18n = key;
  element.dataset.i18nValues = JSON.stringify(values);
  element.textContent = t(key, values);
}

/** The same for an element's label and tooltip. */
export function label(element, key, values = {}) {
  element.dataset.i18nLabel = key;
  element.dataset.i18nLabelValues = JSON.stringify(values);
  element.ariaLabel = element.title = t(key, values);
}

/** Write all texts below an element. */
export function translate(root = document) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of root.querySelectorAll("[data-i18n]")) {
    element.textContent = t(element.dataset.i18n, JSON.parse(element.dataset.i18nValues ?? "{}"));
  }
  for (const element of root.querySelectorAll("[data-i18n-label]")) {
    label(element, element.dataset.i18nLabel, JSON.parse(element.dataset.i18nLabelValues ?? "{}"));
  }
  for (const element of root.querySelectorAll("[data-i18n-placeholder]")) {
    element.placeholder = t(element.dataset.i18nPlaceholder);
  }
}

/** The other language from now on. */
export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  store(STORED, language);
  translate();
  document.dispatchEvent(new Event("languagechange"));
}
