// The official openai npm client against the gateway; run by the integration tests.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

// Unlike `import`, this also looks into NODE_PATH.
const OpenAI = createRequire(import.meta.url)("openai");

const at = (url, apiKey) => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 60_000 });
const client = at(process.env.BASE_URL, process.env.API_KEY);
const plain = at(process.env.PLAIN_BASE_URL, process.env.PLAIN_API_KEY);
const messages = [{ role: "user", content: "Tell me about rivers." }];
const called = [{ role: "user", content: "hi" }, { role: "assistant", content: "<tool_call>\n" }];
const city = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", description: "The weather", parameters: city } }];
const cities = ["Paris", "Rome"];

async function raises(kind, code, call) {
  try {
    await call();
  } catch (error) {
    assert.equal(error.constructor.name, kind.name, `${error}`);
    if (code !== undefined) assert.equal(error.code, code, `${error}`);
    assert.ok(error.requestID, "no request id");
    return error;
  }
  assert.fail(`${kind.name} was not raised`);
}

const tests = {
  async chat() {
    const reply = await plain.chat.completions.create({ model: "any", messages, max_tokens: 12 });
    assert.ok(reply.choices[0].message.content);
    assert.equal(reply.usage.completion_tokens, 12);
    assert.ok(reply._request_id);
  },
  async stream() {
    let text = "";
    const stream = await plain.chat.completions.create({ model: "any", messages, max_tokens: 12, stream: true });
    for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
    assert.ok(text);
  },
  async streamWithUsage() {
    const usages = [];
    const stream = await plain.chat.completions.create({
      model: "any", messages, max_tokens: 12, stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of stream) if (chunk.usage) usages.push([chunk.choices.length, chunk.usage.completion_tokens]);
    assert.deepEqual(usages, [[0, 12]]);
  },
  async streamThatIsLeft() {
    const stream = await plain.chat.completions.create({ model: "any", messages, max_tokens: 3000, stream: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    await tests.chat();
  },
  async tools() {
    const ask = { model: "any", messages: called, tools, tool_choice: "required", temperature: 0, max_tokens: 400 };
    const reply = await client.chat.completions.create(ask);
    assert.ok(cities.includes(JSON.parse(reply.choices[0].message.tool_calls[0].function.arguments).city));
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    const call = final.choices[0].message.tool_calls[0].function;
    assert.equal(call.name, "weather");
    assert.ok(cities.includes(JSON.parse(call.arguments).city));
  },
  async jsonSchema() {
    const response_format = { type: "json_schema", json_schema: { name: "city", schema: city, strict: true } };
    const reply = await plain.chat.completions.create({ model: "any", messages, max_tokens: 400, response_format });
    assert.ok(cities.includes(JSON.parse(reply.choices[0].message.content).city));
  },
  async completions() {
    const reply = await plain.completions.create({ model: "any", prompt: "Once", max_tokens: 7 });
    assert.ok(reply.choices[0].text);
    assert.equal(reply.usage.completion_tokens, 7);
  },
  async responses() {
    const ask = { model: "any", input: "Tell me about rivers.", max_output_tokens: 12 };
    const reply = await plain.responses.create(ask);
    assert.ok(reply.output_text);
    const kinds = [];
    for await (const event of await plain.responses.create({ ...ask, stream: true })) kinds.push(event.type);
    assert.equal(kinds[0], "response.created");
    assert.equal(kinds.at(-1), "response.completed");
  },
  async embeddings() {
    const reply = await client.embeddings.create({ model: "any", input: ["a river", "the sea"] });
    assert.equal(reply.data.length, 2);
    assert.ok(reply.data[0].embedding.length > 10);
    const error = await raises(OpenAI.InternalServerError, "not_supported", () =>
      plain.embeddings.create({ model: "any", input: "a" }));
    assert.equal(error.status, 501);
  },
  async models() {
    const ids = [];
    for await (const model of plain.models.list()) ids.push(model.id);
    assert.deepEqual(ids, ["test-model"]);
    assert.equal((await plain.models.retrieve("test-model")).id, "test-model");
    await raises(OpenAI.NotFoundError, "model_not_found", () => plain.models.retrieve("nobody"));
  },
  async errors() {
    await raises(OpenAI.AuthenticationError, "invalid_api_key", () =>
      at(process.env.BASE_URL, "sk-wrong").chat.completions.create({ model: "any", messages }));
    const long = [{ role: "user", content: "river ".repeat(6000) }];
    await raises(OpenAI.BadRequestError, "context_length_exceeded", () =>
      plain.chat.completions.create({ model: "any", messages: long, max_tokens: 5 }));
    await raises(OpenAI.BadRequestError, null, () =>
      plain.chat.completions.create({ model: "any", messages, temperature: "hot" }));
    await raises(OpenAI.NotFoundError, "unknown_url", () => plain.files.list());
  },
};

for (const [name, test] of Object.entries(tests)) {
  console.log(`openai-node: ${name}`);
  try {
    await test();
  } catch (error) {
    console.log(error);
    process.exitCode = 1;
  }
}
