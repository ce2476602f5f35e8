// Runs before the page is drawn, so that a chosen theme does not flash.
try {
  const chosen = localStorage.getItem("glm.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // This browser lets nobody keep anything.
}
