// What all clients here ask; see common.py.
import { readFileSync } from "node:fs";

export const { BASE } = process.env;
export const MODEL = "glm-4.6v-flash";
export const KEY = "any";
export const STAR = readFileSync(process.env.STAR).toString("base64");
export const STAR_URI = `data:image/png;base64,${STAR}`;
export const QUESTION = "What is the weather in Paris?";
export const CITY = { city: "Paris" };
export const RESULT = "18 degrees, sunny";
export const SCHEMA = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const description = "Tell the weather in a city.";
export const TOOL = {
  type: "function",
  function: { name: "get_weather", description, parameters: SCHEMA },
};
