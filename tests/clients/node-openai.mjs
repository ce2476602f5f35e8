// OpenAI's SDK for JavaScript: chats and responses, streams, tools, a picture, errors.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { BASE, CITY, KEY, MODEL, QUESTION, RESULT, STAR_URI, TOOL } from "./common.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const plain = { model: MODEL, messages, temperature: 0, reasoning_effort: "none" };

assert.equal((await client.models.list()).data[0].id, MODEL);

const { choices } = await client.chat.completions.create({ ...plain, tools: [TOOL] });
const [call] = choices[0].message.tool_calls;
assert.deepEqual(JSON.parse(call.function.arguments), CITY);
const result = { role: "tool", tool_call_id: call.id, content: RESULT };
const history = [...messages, choices[0].message, result];
const answer = await client.chat.completions.create({ ...plain, messages: history, tools: [TOOL] });
assert.ok(answer.choices[0].message.content.includes(RESULT));

const stream = client.chat.completions.stream({ ...plain, tools: [TOOL] });
const whole = await stream.finalChatCompletion();
assert.equal(whole.choices[0].finish_reason, "tool_calls");

const runner = client.chat.completions.runTools({
  ...plain,
  stream: true,
  tools: [{
    type: "function",
    function: { ...TOOL.function, parse: JSON.parse, function: () => RESULT },
  }],
});
assert.ok((await runner.finalContent()).includes(RESULT));

const paint = z.object({ colour: z.enum(["red", "blue"]) });
const parsed = await client.chat.completions.parse({
  ...plain,
  response_format: zodResponseFormat(paint, "paint"),
});
paint.parse(parsed.choices[0].message.parsed);

const asked = { model: MODEL, temperature: 0, reasoning: { effort: "none" }, store: false };
const tool = { type: "function", ...TOOL.function, strict: false };
const events = client.responses.stream({ ...asked, input: QUESTION, tools: [tool] });
const response = await events.finalResponse();
assert.equal(response.status, "completed");
assert.deepEqual(JSON.parse(response.output.at(-1).arguments), CITY);
const look = await client.responses.create({
  ...asked,
  input: [{
    role: "user",
    content: [
      { type: "input_image", image_url: STAR_URI, detail: "auto" },
      { type: "input_text", text: "What is in this image?" },
    ],
  }],
});
assert.match(look.output_text, /star/);

await assert.rejects(client.chat.completions.create({ ...plain, temperature: 9 }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError);
  assert.equal(error.param, "temperature");
  return true;
});

const { version } = JSON.parse(readFileSync("node_modules/openai/package.json"));
console.log(`node-openai ${version}: ok`);
