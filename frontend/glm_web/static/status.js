// The pill that tells whether the server answers, and the banner that says what it means.

import { health } from "./api.js";
import { say } from "./i18n.js";

const SECONDS_READY = 10;
const SECONDS_OTHERWISE = 2;

const pill = document.querySelector("#status");
const banner = document.querySelector("#banner");

const BANNERS = {
  loading: "bannerLoading", full: "bannerFull", failed: "bannerFailed",
  draining: "bannerDraining", gone: "bannerGone",
};

let state = "checking";
let timer = 0;

/** Whether a request would be taken now, as far as is known. */
export function mayAsk() {
  return ["ready", "full", "checking"].includes(state);
}

/** Ask the server now, and then again and again while the page is seen. */
export async function watchHealth() {
  clearTimeout(timer);
  const now = await health();
  show(now.state, now.message);
  clearTimeout(timer);
  if (!document.hidden) {
    timer = setTimeout(watchHealth, 1000 * (state === "ready" ? SECONDS_READY : SECONDS_OTHERWISE));
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) watchHealth();
});

function show(next, message) {
  const changed = next !== state;
  // Screen readers say what is written there, and not again every few seconds.
  if (!changed && pill.title === message) return;
  state = next;
  pill.dataset.state = state;
  pill.title = message;
  say(pill, `state${state[0].toUpperCase()}${state.slice(1)}`);
  banner.hidden = !(state in BANNERS);
  if (!banner.hidden) {
    say(banner.firstElementChild, BANNERS[state]);
    banner.lastElementChild.textContent = message;
  }
  if (changed) document.dispatchEvent(new CustomEvent("serverstate", { detail: state }));
}
