// The server's public API, as any client sees it. Addresses are relative: behind a path prefix, too.

const POLL_TIMEOUT = 15_000;

/** An error of the API, or of the way to it. */
export class ApiError extends Error {
  /**
   * @param {string} message in the server's words
   * @param {{status?: number, code?: string, retryAfter?: number}} details code: the server's, or
   *   "gone" when there was no answer, "broken" when it broke off; retryAfter: in seconds
   */
  constructor(message, { status = 0, code = "", retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** Whether requests are answered: {state, message}. Never throws. */
export async function health() {
  try {
    const response = await fetch("v1/health", { signal: AbortSignal.timeout(POLL_TIMEOUT) });
    const body = await response.json();
    if (response.ok) {
      return { state: body.status === "full" ? "full" : "ready", message: body.message };
    }
    if (body.error) return { state: "gone", message: body.error.message };
    if (body.status === "draining") return { state: "draining", message: body.message };
    const parts = Object.values(body.checks);
    const state = ["loading", "restarting"].some((one) => parts.includes(one))
      ? "loading"
      : parts.includes("overloaded") ? "full" : "failed";
    return { state, message: body.message };
  } catch (error) {
    return { state: "gone", message: String(error.message) };
  }
}

/** The name of the served model. Throws ApiError. */
export async function modelName(key) {
  const response = await ask("v1/models", { headers: authorization(key) });
  return (await response.json()).data[0].id;
}

/**
 * Ask, and yield the chunks of the answer as they come. Throws ApiError, and an AbortError when the
 * signal says so; the server then drops the request.
 */
export async function* streamChat(body, key, signal) {
  const headers = { "content-type": "application/json", ...authorization(key) };
  const response = await ask("v1/chat/completions", {
    method: "POST", headers, body: JSON.stringify(body), signal,
  });
  let text = "";
  let done = false;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  while (!done) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (signal.aborted) throw error;
      throw new ApiError(error.message, { code: "broken" });
    }
    if (piece.done) throw new ApiError("", { code: "broken" });
    text += piece.value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const data = event.slice("data: ".length);
      if (data === "[DONE]") {
        done = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw fromBody(chunk.error);
      yield chunk;
    }
  }
}

function authorization(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(error.message, { code: "gone" });
  }
  if (response.ok) return response;
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  let error;
  try {
    ({ error } = await response.json());
  } catch {
    error = { message: response.statusText };
  }
  throw fromBody(error, response.status, retryAfter);
}

function fromBody({ message, code }, status = 0, retryAfter = 0) {
  const gone = code === "api_unreachable";
  return new ApiError(message, {
    status, retryAfter, code: gone ? (status ? "gone" : "broken") : code,
  });
}
