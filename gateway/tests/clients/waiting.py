"""Official Python clients whose request waits; run by the integration tests with the kind of request as argument."""

import os
import sys

import anthropic
import openai

BASE, KEY = os.environ["BASE_URL"], os.environ["API_KEY"]
HELLO = [{"role": "user", "content": "Tell me about rivers."}]
kind = sys.argv[1]

if kind == "messages":
    client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0, timeout=60)
    with client.messages.stream(model="any", messages=HELLO, max_tokens=12) as stream:
        text = "".join(stream.text_stream)
        assert text and stream.get_final_message().content[0].text == text
else:
    client = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0, timeout=60)
    if kind == "failed":
        reply = client.chat.completions.create(model="any", messages=HELLO, max_tokens=12)
        assert reply.choices is None and reply.error["code"] == "backend_error", reply
        sys.exit()
    if kind == "stream":
        chunks = client.chat.completions.create(model="any", messages=HELLO, max_tokens=12, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        reply = client.chat.completions.create(model="any", messages=HELLO, max_tokens=12)
        assert reply.usage.completion_tokens == 3
        text = reply.choices[0].message.content
    assert text == " t1 t2 t3", text
