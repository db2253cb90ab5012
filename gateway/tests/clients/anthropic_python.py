"""The official anthropic Python client against the gateway; run by the integration tests."""

import os
import sys
import traceback

import anthropic

client = anthropic.Anthropic(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0, timeout=60)
plain = anthropic.Anthropic(
    base_url=os.environ["PLAIN_BASE_URL"], api_key=os.environ["PLAIN_API_KEY"], max_retries=0, timeout=60
)
HELLO = [{"role": "user", "content": "Tell me about rivers."}]
CALLED = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<tool_call>\n"}]
TOOL = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
    },
}


def raises(kind, call, error_type):
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} is not exactly {kind}: {error}"
        assert error.body["type"] == "error" and error.body["error"]["type"] == error_type, error.body
        assert error.request_id and error.body["request_id"] == error.request_id, error.body
        return
    raise AssertionError(f"{kind} was not raised")


def message():
    reply = plain.messages.create(model="any", messages=HELLO, max_tokens=12)
    assert reply.content[0].text and reply.stop_reason == "max_tokens"
    assert reply.usage.output_tokens == 12 and reply._request_id


def stream():
    with plain.messages.stream(model="any", messages=HELLO, max_tokens=12) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    assert text and final.usage.output_tokens == 12 and final.stop_reason == "max_tokens"


def thinking():
    reply = client.messages.create(model="any", messages=HELLO, max_tokens=12)
    assert reply.content[0].type == "thinking"


def tools():
    reply = client.messages.create(
        model="any", messages=CALLED, max_tokens=400, tools=[TOOL], tool_choice={"type": "any"}
    )
    calls = [block for block in reply.content if block.type == "tool_use"]
    assert calls and calls[0].name == "weather", reply
    assert calls[0].input["city"] in ("Paris", "Rome"), reply


def count():
    assert plain.messages.count_tokens(model="any", messages=HELLO).input_tokens > 5


def errors():
    stranger = anthropic.Anthropic(base_url=os.environ["BASE_URL"], api_key="sk-wrong", max_retries=0)
    raises(
        anthropic.AuthenticationError,
        lambda: stranger.messages.create(model="any", messages=HELLO, max_tokens=5),
        "authentication_error",
    )
    long = [{"role": "user", "content": "river " * 6000}]
    raises(
        anthropic.BadRequestError,
        lambda: plain.messages.create(model="any", messages=long, max_tokens=5),
        "invalid_request_error",
    )
    raises(
        anthropic.BadRequestError,
        lambda: plain.messages.create(model="any", messages=HELLO, max_tokens=5, extra_body={"temperature": "hot"}),
        "invalid_request_error",
    )


failed = []
for test in (message, stream, thinking, tools, count, errors):
    print(f"anthropic-python {anthropic.__version__}: {test.__name__}", flush=True)
    try:
        test()
    except Exception:
        traceback.print_exc()
        failed.append(test.__name__)
sys.exit(f"failed: {failed}" if failed else 0)
