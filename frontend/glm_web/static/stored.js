// What is kept in this browser. Where it lets nobody keep anything, the page works without.

/** What is kept under a name; null if nothing is. */
export function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Keep a text. */
export function store(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch {
    // Then it is for this visit only.
  }
}
