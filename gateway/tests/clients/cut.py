"""Official Python clients whose answers end at a quota; run by the integration tests. Each request has its own key."""

import os

import anthropic
import openai

BASE = os.environ["BASE_URL"]
KEYS = iter(os.environ["API_KEYS"].split())
HELLO = [{"role": "user", "content": "Tell me about rivers."}]
MORE = 3000


def ask():
    return openai.OpenAI(base_url=BASE + "/v1", api_key=next(KEYS), max_retries=0, timeout=60)


def ask_anthropic():
    return anthropic.Anthropic(base_url=BASE, api_key=next(KEYS), max_retries=0, timeout=60)


chunks = list(ask().chat.completions.create(model="any", messages=HELLO, max_tokens=MORE, stream=True))
assert chunks[-1].choices[0].finish_reason == "length"
assert chunks[-1].cut_reason == "insufficient_quota"

# This helper of the client raises at every output that ends at its length; what there was is in the exception.
with ask().chat.completions.stream(model="any", messages=HELLO, max_tokens=MORE) as stream:
    try:
        stream.get_final_completion()
        raise AssertionError("the client takes it for a whole answer")
    except openai.LengthFinishReasonError as error:
        assert error.completion.choices[0].message.content

reply = ask().chat.completions.create(model="any", messages=HELLO, max_tokens=MORE)
assert reply.choices[0].finish_reason == "length" and reply.cut_reason == "insufficient_quota"

events = list(ask().responses.create(model="any", input="Once upon", max_output_tokens=MORE, stream=True))
text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
last = events[-1]
assert last.type == "response.incomplete" and last.response.incomplete_details.reason == "max_output_tokens"
assert last.response.output_text == text and text

reply = ask().responses.create(model="any", input="Once upon", max_output_tokens=MORE)
assert reply.status == "incomplete" and reply.output_text

with ask_anthropic().messages.stream(model="any", messages=HELLO, max_tokens=MORE) as stream:
    text = "".join(stream.text_stream)
    message = stream.get_final_message()
    assert message.stop_reason == "max_tokens" and message.content[0].text == text

message = ask_anthropic().messages.create(model="any", messages=HELLO, max_tokens=MORE)
assert message.stop_reason == "max_tokens" and message.cut_reason == "insufficient_quota"
