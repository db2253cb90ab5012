"""Alerts on metrics of the platform, for which something stands here; see `exporter`."""

from ..exporter import Exporter, platform_of
from ..place import provokes


@provokes(("LlamaGatewayVolumeFilling", "warning"), ("LlamaGatewayPodRestarting", "warning"))
def platform(place):
    """The kubelet says that the volume is nearly full, and that a container was started again."""
    with Exporter(platform_of(place.namespace)) as exporter:
        free, restarts = (next(one for one in exporter.values if name in one) for name in ("available", "restarts"))
        exporter.values[free] = 5e7
        place.scrape("platform", exporter.address)
        place.until_scraped("platform")
        place.cause()
        exporter.values[restarts] = 1
        place.fires("LlamaGatewayPodRestarting")
        place.fires("LlamaGatewayVolumeFilling")
        exporter.values[free] = 5e9
        place.silent("LlamaGatewayVolumeFilling")
        place.silent("LlamaGatewayPodRestarting")
