"""The official openai Python client against the gateway; run by the integration tests."""

import json
import os
import sys
import traceback

import openai

BASE = os.environ["BASE_URL"] + "/v1"
KEY = os.environ["API_KEY"]
client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=60)
plain = openai.OpenAI(
    base_url=os.environ["PLAIN_BASE_URL"] + "/v1", api_key=os.environ["PLAIN_API_KEY"], max_retries=0, timeout=60
)
HELLO = [{"role": "user", "content": "Tell me about rivers."}]
CALLED = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<tool_call>\n"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": CITY}}


def raises(kind, call, code=None, status=None):
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} is not exactly {kind}: {error}"
        if code is not None:
            assert error.code == code, f"code {error.code!r}, expected {code!r}: {error}"
        if status is not None:
            assert error.status_code == status, error
        if isinstance(error, openai.APIStatusError):
            assert error.request_id, "no request id"
        return error
    raise AssertionError(f"{kind} was not raised")


def chat():
    reply = plain.chat.completions.create(model="any", messages=HELLO, max_tokens=12)
    assert reply.choices[0].message.content and reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 12
    assert reply._request_id


def chat_of_two_choices():
    reply = plain.chat.completions.create(model="any", messages=HELLO, max_tokens=5, n=2)
    assert [choice.index for choice in reply.choices] == [0, 1]


def stream():
    text, chunks = "", 0
    for chunk in plain.chat.completions.create(model="any", messages=HELLO, max_tokens=12, stream=True):
        assert chunk.usage is None
        text += chunk.choices[0].delta.content or ""  # must never meet a chunk without choices
        chunks += 1
    assert text and chunks > 5


def stream_with_usage():
    options = {"include_usage": True}
    usages = []
    for chunk in plain.chat.completions.create(
        model="any", messages=HELLO, max_tokens=12, stream=True, stream_options=options
    ):
        if chunk.usage:
            assert chunk.choices == []
            usages.append(chunk.usage)
    assert len(usages) == 1 and usages[0].completion_tokens == 12


def stream_that_is_left():
    stream = plain.chat.completions.create(model="any", messages=HELLO, max_tokens=3000, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    chat()


def reasoning():
    reply = client.chat.completions.create(model="any", messages=HELLO, max_tokens=12)
    assert reply.choices[0].message.reasoning_content


def tools():
    ask = dict(model="any", messages=CALLED, tools=[TOOL], tool_choice="required", temperature=0)
    call = client.chat.completions.create(**ask, max_tokens=400).choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    pieces = [
        piece
        for chunk in client.chat.completions.create(**ask, max_tokens=400, stream=True)
        for piece in chunk.choices[0].delta.tool_calls or []
        if piece.index == 0
    ]
    assert pieces[0].id and pieces[0].function.name == "weather", pieces[0]
    arguments = "".join(piece.function.arguments or "" for piece in pieces)
    assert json.loads(arguments)["city"] in ("Paris", "Rome"), arguments


def json_schema():
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    reply = plain.chat.completions.create(model="any", messages=HELLO, max_tokens=400, response_format=schema)
    assert json.loads(reply.choices[0].message.content)["city"] in ("Paris", "Rome")


def completions():
    reply = plain.completions.create(model="any", prompt="Once", max_tokens=7)
    assert reply.choices[0].text and reply.usage.completion_tokens == 7
    text = "".join(
        chunk.choices[0].text for chunk in plain.completions.create(model="any", prompt="Once", max_tokens=7, stream=True)
    )
    assert text


def responses():
    reply = plain.responses.create(model="any", input="Tell me about rivers.", max_output_tokens=12)
    assert reply.output_text and reply.usage.output_tokens == 12
    # Not `responses.stream(...)`: it needs an `output_index` in every event, and llama-server sends none.
    events = plain.responses.create(model="any", input="Tell me about rivers.", max_output_tokens=12, stream=True)
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and "response.output_text.delta" in kinds, kinds
    assert kinds[-1] == "response.completed", kinds


def embeddings():
    reply = client.embeddings.create(model="any", input=["a river", "the sea"])  # asks for base64 by itself
    assert len(reply.data) == 2 and len(reply.data[0].embedding) > 10 and reply.usage.prompt_tokens > 2
    error = raises(openai.InternalServerError, lambda: plain.embeddings.create(model="any", input="a"), status=501)
    assert "embedding" in error.message.lower(), error.message


def models():
    listed = list(plain.models.list())
    assert [model.id for model in listed] == ["test-model"], listed
    one = plain.models.retrieve("test-model")
    assert one.id == "test-model" and one.object == "model" and one.meta["n_ctx"] > 0
    raises(openai.NotFoundError, lambda: plain.models.retrieve("nobody"), "model_not_found")


def errors():
    stranger = openai.OpenAI(base_url=BASE, api_key="sk-wrong", max_retries=0)
    raises(
        openai.AuthenticationError,
        lambda: stranger.chat.completions.create(model="any", messages=HELLO),
        "invalid_api_key",
    )
    long = [{"role": "user", "content": "river " * 6000}]
    for streamed in (False, True):
        raises(
            openai.BadRequestError,
            lambda: plain.chat.completions.create(model="any", messages=long, max_tokens=5, stream=streamed),
            "context_length_exceeded",
        )
    error = raises(
        openai.BadRequestError, lambda: plain.chat.completions.create(model="any", messages=HELLO, temperature="hot")
    )
    assert error.param == "temperature" and error.type == "invalid_request_error", error
    raises(openai.BadRequestError, lambda: plain.chat.completions.create(model="any", messages=HELLO, n=99))
    raises(openai.NotFoundError, lambda: plain.files.list(), "unknown_url")
    lost = openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v2", api_key=KEY, max_retries=0)
    raises(openai.NotFoundError, lambda: lost.models.list(), "unknown_url")


failed = []
for test in (
    chat, chat_of_two_choices, stream, stream_with_usage, stream_that_is_left, reasoning, tools, json_schema,
    completions, responses, embeddings, models, errors,
):
    print(f"openai-python {openai.__version__}: {test.__name__}", flush=True)
    try:
        test()
    except Exception:
        traceback.print_exc()
        failed.append(test.__name__)
sys.exit(f"failed: {failed}" if failed else 0)
