"""Reads usage and costs with the official openai Python client, page by page; run by the integration tests."""

import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key="none", admin_api_key=os.environ["ADMIN_KEY"])
usage = client.admin.organization.usage
START = int(os.environ["START"])
KEYS = ["project_id", "api_key_id", "model"]


def pages(call, **query):
    """All results of all buckets."""
    page, results, seen = openai.omit, [], 0
    while True:
        answer = call(start_time=START, limit=1, page=page, **query)
        assert answer.object == "page" and len(answer.data) == 1, answer
        seen += 1
        results += answer.data[0].results
        if not answer.has_more:
            assert answer.next_page is None and seen > 1, answer
            return results
        page = answer.next_page


found = []
for call in (usage.completions, usage.embeddings):
    for result in pages(call, bucket_width="1d", group_by=KEYS):
        assert result.user_id is None
        found.append(
            {
                "tenant": result.project_id,
                "key_id": result.api_key_id,
                "model": result.model,
                "requests": result.num_model_requests,
                "prompt_tokens": result.input_tokens,
                "completion_tokens": getattr(result, "output_tokens", 0),
            }
        )
costs = pages(usage.costs, group_by=["project_id", "line_item"])
assert all(cost.amount.currency == "eur" and ", " in cost.line_item and cost.quantity > 0 for cost in costs), costs
try:
    usage.completions(start_time=START, limit=1000)
    raise AssertionError("a limit of 1000 days was let through")
except openai.BadRequestError as error:
    assert error.param == "limit", error
print(json.dumps({"usage": found, "cost": sum(cost.amount.value for cost in costs)}))
