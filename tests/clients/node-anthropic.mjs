// Anthropic's SDK for JavaScript: messages, streams, tools by hand and by its runner, a picture.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod";
import { BASE, CITY, KEY, MODEL, QUESTION, RESULT, SCHEMA, STAR, TOOL } from "./common.mjs";

const client = new Anthropic({ baseURL: BASE, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const { name, description } = TOOL.function;
const tools = [{ name, description, input_schema: SCHEMA }];
const ask = { model: MODEL, max_tokens: 300, messages, temperature: 0 };

assert.equal((await client.models.list()).data[0].id, MODEL);
assert.ok((await client.messages.countTokens({ model: MODEL, messages })).input_tokens > 0);

const called = await client.messages.create({ ...ask, tools });
assert.equal(called.stop_reason, "tool_use");
const call = called.content.at(-1);
assert.deepEqual(call.input, CITY);
const history = [
  ...messages,
  { role: "assistant", content: called.content },
  { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: RESULT }] },
];
const answer = await client.messages.create({ ...ask, messages: history, tools });
assert.ok(answer.content.at(-1).text.includes(RESULT));

const streamed = await client.messages.stream({ ...ask, tools }).finalMessage();
assert.deepEqual(streamed.content.at(-1).input, CITY);

const source = { type: "base64", media_type: "image/png", data: STAR };
const content = [{ type: "image", source }, { type: "text", text: "What is in this image?" }];
const look = await client.messages.create({ ...ask, messages: [{ role: "user", content }] });
assert.match(look.content[0].text, /star/);

const runner = client.beta.messages.toolRunner({
  ...ask,
  stream: true,
  tools: [betaZodTool({
    name,
    description,
    inputSchema: z.object({ city: z.string() }),
    run: () => RESULT,
  })],
});
const ended = await runner.runUntilDone();
assert.ok(ended.content.at(-1).text.includes(RESULT));

await assert.rejects(client.messages.create({ ...ask, temperature: 9 }), (error) => {
  assert.ok(error instanceof Anthropic.BadRequestError);
  assert.match(error.message, /temperature/);
  return true;
});

const { version } = JSON.parse(readFileSync("node_modules/@anthropic-ai/sdk/package.json"));
console.log(`node-anthropic ${version}: ok`);
