// The official npm client whose answers end at a quota; run by the integration tests. Each request has its own key.
import assert from "node:assert/strict";
import OpenAI from "openai";

const keys = process.env.API_KEYS.split(" ");
const ask = () => new OpenAI({ baseURL: `${process.env.BASE_URL}/v1`, apiKey: keys.pop(), maxRetries: 0 });
const chat = { model: "any", messages: [{ role: "user", content: "Tell me about rivers." }], max_tokens: 3000 };

const final = await ask().chat.completions.stream(chat).finalChatCompletion();
assert.equal(final.choices[0].finish_reason, "length");
const reply = await ask().chat.completions.create(chat);
assert.equal(reply.choices[0].finish_reason, "length");
assert.equal(reply.cut_reason, "insufficient_quota");

let last;
const response = { model: "any", input: "Once upon", max_output_tokens: 3000, stream: true };
for await (const event of await ask().responses.create(response)) last = event;
assert.equal(last.type, "response.incomplete");
assert.equal(last.response.incomplete_details.reason, "max_output_tokens");
