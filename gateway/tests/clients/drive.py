"""The official Python clients, told by lines of JSON what to ask for; each answer or error is told in a line, too."""

import json
import sys

import anthropic
import openai

HELLO = [{"role": "user", "content": "Tell me about rivers."}]
kind = sys.argv[1]


def openai_chat(order, common):
    client = openai.OpenAI(base_url=order["base"] + "/v1", **common)
    reply = client.chat.completions.create(model=order["model"], messages=HELLO, max_tokens=12, stream=order["stream"])
    if order["stream"]:
        return "".join(chunk.choices[0].delta.content or "" for chunk in reply)
    return reply.choices[0].message.content


def anthropic_message(order, common):
    client = anthropic.Anthropic(base_url=order["base"], **common)
    if order["stream"]:
        with client.messages.stream(model=order["model"], messages=HELLO, max_tokens=12) as stream:
            return "".join(stream.text_stream)
    return client.messages.create(model=order["model"], messages=HELLO, max_tokens=12).content[0].text


def facts(error):
    body = getattr(error, "body", None) or {}
    told = body.get("error", body) if isinstance(body, dict) else {}
    return {
        "error": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "type": told.get("type"),
        "code": told.get("code"),
        "request_id": getattr(error, "request_id", None),
        "message": str(error),
    }


for line in sys.stdin:
    order = json.loads(line)
    common = {"api_key": order["key"], "max_retries": order["retries"], "timeout": order["timeout"]}
    try:
        ask = anthropic_message if kind == "anthropic" else openai_chat
        result = {"error": None, "text": ask(order, common)}
    except (openai.OpenAIError, anthropic.AnthropicError) as error:
        result = facts(error)
    print(json.dumps(result), flush=True)
