// The official npm client, told by lines of JSON what to ask for; each answer or error is told in a line, too.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// Unlike `import`, this also looks into NODE_PATH.
const OpenAI = createRequire(import.meta.url)("openai");

const messages = [{ role: "user", content: "Tell me about rivers." }];

async function ask({ base, key, model, stream, retries, timeout }) {
  const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: retries });
  // It tells the gateway the timeout of a call, but not that of the client.
  const reply = await client.chat.completions.create(
    { model, messages, max_tokens: 12, stream }, { timeout: timeout * 1000 },
  );
  if (!stream) return reply.choices[0].message.content;
  let text = "";
  for await (const chunk of reply) text += chunk.choices[0].delta.content ?? "";
  return text;
}

for await (const line of createInterface({ input: process.stdin })) {
  let result;
  try {
    result = { error: null, text: await ask(JSON.parse(line)) };
  } catch (error) {
    const { status, type, code, requestID, message } = error;
    result = { error: error.constructor.name, status, type, code, request_id: requestID, message };
  }
  console.log(JSON.stringify(result));
}
