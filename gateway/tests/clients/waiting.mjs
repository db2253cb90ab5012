// The official npm client whose request waits; run by the integration tests with the kind of request as argument.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.BASE_URL}/v1`, apiKey: process.env.API_KEY, maxRetries: 0, timeout: 60_000,
});
const ask = { model: "any", messages: [{ role: "user", content: "Tell me about rivers." }], max_tokens: 12 };
if (process.argv[2] === "failed") {
  const reply = await client.chat.completions.create(ask);
  assert.ok(reply.choices === undefined && reply.error.code === "backend_error");
  process.exit();
}
let text = "";
if (process.argv[2] === "stream") {
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    text += chunk.choices[0].delta.content ?? "";
  }
} else {
  const reply = await client.chat.completions.create(ask);
  assert.equal(reply.usage.completion_tokens, 3);
  text = reply.choices[0].message.content;
}
assert.equal(text, " t1 t2 t3");
