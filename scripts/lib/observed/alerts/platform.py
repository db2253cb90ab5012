"""Alerts on metrics of the platform, for which something stands here; see `exporter`."""

from ..exporter import Exporter
from ..place import provokes


@provokes(("LlamaGatewayVolumeFilling", "warning"), ("LlamaGatewayPodRestarting", "warning"))
def platform(place):
    """The kubelet says that the volume is nearly full, and that a container was started again."""
    claim = f'{{namespace="{place.namespace}",persistentvolumeclaim="kimi-k2-gateway-data"}}'
    free = f"kubelet_volume_stats_available_bytes{claim}"
    restarts = ("kube_pod_container_status_restarts_total"
                f'{{namespace="{place.namespace}",pod="kimi-k2-llamacpp-0",container="llama-server"}}')
    with Exporter({f"kubelet_volume_stats_capacity_bytes{claim}": 1e9, free: 5e7, restarts: 0}) as exporter:
        place.scrape("platform", exporter.address)
        place.until_scraped("platform")
        place.cause()
        exporter.values[restarts] = 1
        place.fires("LlamaGatewayPodRestarting")
        place.fires("LlamaGatewayVolumeFilling")
        exporter.values[free] = 5e8
        place.silent("LlamaGatewayVolumeFilling")
        place.silent("LlamaGatewayPodRestarting")
