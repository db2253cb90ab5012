"""Alerts on the queue."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from ..client import chat
from ..place import provokes
from ..processes import until
from ..servers import simulator
from .servers import CHATS


@provokes(("LlamaGatewayQueueSaturated", "warning"))
def flood(place):
    """Six at once, where one may run and one may wait."""
    upstream = simulator(place.folder, "--slots", 1).start()
    gateway = place.gateway(upstream.url, "[policies.default]\nqueued_requests = 1\n").ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()

    def one_of_many(_):
        until("the queue is saturated",
              lambda: client.ask(CHATS, chat(30)) and place.fired("LlamaGatewayQueueSaturated"))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one_of_many, range(6)))
    place.fires("LlamaGatewayQueueSaturated")
    place.silent("LlamaGatewayQueueSaturated")


@provokes(("LlamaGatewayLongWait", "warning"))
def long_queue(place):
    """Forty wait for a slow llama-server, and leave."""
    upstream = simulator(place.folder, "--slots", 1, "--decode-ms", 200).start()
    gateway = place.gateway(upstream.url).ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    # One that is over: only then is it known how long the others take.
    client.ask(CHATS, chat(100) | {"max_tokens": 5})
    place.cause()
    with contextlib.ExitStack() as waiting:
        for _ in range(40):
            waiting.enter_context(client.sent(CHATS, chat(100, stream=True)))
        place.fires("LlamaGatewayLongWait")
    place.silent("LlamaGatewayLongWait")
