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
    """Sixty wait, and leave. In the fair order a newcomer would not be behind all requests of one tenant."""
    upstream = simulator(place.folder, "--slots", 1, "--decode-ms", 40).start()
    gateway = place.gateway(upstream.url, '[queue]\norder = "first_come"\n').ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    # One that is over: only then is it known how long the others take, which is 8 s.
    client.ask(CHATS, chat(200))
    place.cause()
    with contextlib.ExitStack() as waiting:
        for _ in range(60):
            waiting.enter_context(client.sent(CHATS, chat(200, stream=True)))
        place.fires("LlamaGatewayLongWait")
    place.silent("LlamaGatewayLongWait")
