"""The alert on traces."""

from ..client import chat
from ..place import provokes
from ..servers import simulator
from .servers import CHATS


@provokes(("LlamaGatewayTraceExportFailing", "info"))
def no_collector(place):
    """What is named as the collector is none, and refuses the spans of requests, until there are no more requests."""
    upstream = simulator(place.folder).start()
    gateway = place.gateway(upstream.url, f'[traces]\nurl = "{upstream.url}"\n').ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()
    place.keep_until_it_fires(lambda: client.ask(CHATS, chat(2)), "LlamaGatewayTraceExportFailing", "info")
    place.silent("LlamaGatewayTraceExportFailing", "info")
