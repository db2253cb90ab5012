"""The service level objectives: error budgets that burn."""

import contextlib

from ..client import chat
from ..place import provokes
from ..servers import simulator
from .servers import CHATS

ERRORS = [("LlamaGatewayErrorBudgetBurn", "critical"), ("LlamaGatewayErrorBudgetBurn", "warning")]
SLOW = [("LlamaGatewayFirstTokenBudgetBurn", "critical"), ("LlamaGatewayFirstTokenBudgetBurn", "warning")]


@provokes(*ERRORS)
def errors(place):
    """Each request fails at llama-server."""
    upstream = simulator(place.folder).start("--fault", "status-500")
    gateway = place.gateway(upstream.url).ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()
    for alert, severity in ERRORS:
        place.keep_until_it_fires(lambda: client.ask(CHATS, chat(2)), alert, severity)
    # There are no requests any more, and so none that fail.
    place.silent("LlamaGatewayErrorBudgetBurn", "critical")
    place.stays("LlamaGatewayErrorBudgetBurn", "warning", "its window is six hours: six minutes here")


@provokes(*SLOW)
def late_first_tokens(place):
    """One request has the only slot for 31 seconds, while others wait: the objective is 30."""
    upstream = simulator(place.folder, "--slots", 1, "--decode-ms", 20, "--context", 8192).start()
    gateway = place.gateway(upstream.url, "[policies.default]\nqueued_requests = 1000\n").ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()
    with contextlib.ExitStack() as all_of_them:
        for tokens in [1600, *[2] * 150]:
            all_of_them.enter_context(client.sent(CHATS, chat(tokens, stream=True)))
        for alert, severity in SLOW:
            place.fires(alert, severity)
    place.silent("LlamaGatewayFirstTokenBudgetBurn", "critical")
    place.stays("LlamaGatewayFirstTokenBudgetBurn", "warning", "its window is six hours: six minutes here")
