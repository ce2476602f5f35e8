// Vercel's AI SDK by @ai-sdk/openai-compatible and by @ai-sdk/openai (responses, store: false).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { BASE, KEY, MODEL, QUESTION, RESULT, STAR } from "./common.mjs";

const baseURL = `${BASE}/v1`;
const compatible = createOpenAICompatible({
  name: "glm", baseURL, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: KEY });
const tools = {
  get_weather: tool({
    description: "Tell the weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: () => RESULT,
  }),
};
const paint = z.object({ colour: z.enum(["red", "blue"]) });
const providers = [
  [compatible(MODEL), { glm: { reasoningEffort: "none" } }],
  [openai.chat(MODEL), {}],
  [openai.responses(MODEL), { openai: { store: false } }],
];
for (const [model, providerOptions] of providers) {
  const ask = { model, temperature: 0, maxOutputTokens: 400, maxRetries: 0, providerOptions };
  const weather = { ...ask, prompt: QUESTION, tools, stopWhen: stepCountIs(3) };
  const answer = await generateText(weather);
  assert.ok(answer.text.includes(RESULT), `${model.provider}: ${JSON.stringify(answer.steps)}`);

  const stream = streamText({ ...weather, onError: ({ error }) => { throw error; } });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.ok(text.includes(RESULT), `${model.provider}: ${text}`);
  assert.ok((await stream.usage).outputTokens > 0);

  const typed = await generateText({
    ...ask, prompt: "red or blue?", output: Output.object({ schema: paint }),
  });
  paint.parse(typed.output);

  const picture = { type: "file", data: STAR, mediaType: "image/png" };
  const content = [picture, { type: "text", text: "What is in this image?" }];
  const look = await generateText({ ...ask, messages: [{ role: "user", content }] });
  assert.match(look.text, /star/);

  await assert.rejects(generateText({ ...ask, prompt: QUESTION, temperature: 9 }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    return true;
  });
}

const { version } = JSON.parse(readFileSync("node_modules/ai/package.json"));
console.log(`node-ai ${version}: ok`);
