"""Panels on metrics of NVIDIA's DCGM exporter, which a cluster may have or not: they stand in folded rows."""
from .model import Panel, Target


def gpus(metric):
    """A metric of the GPUs that the namespaces' pods use.

    The exporter tells the pod in `namespace`, which Prometheus renames where that label is the exporter's own.
    """
    return 'max by (Hostname, gpu) (%s{exported_namespace=~"$namespace"} or %s{namespace=~"$namespace"})' % (
        metric, metric)


# Readers know such a row by the word optional.
ROW = "GPU (optional: needs NVIDIA's DCGM exporter)"
LEGEND = "{{Hostname}} GPU {{gpu}}"

BUSY = Panel("GPU busy", "Part of the time in which a kernel ran. 100 % does not mean that the GPU could not do more.",
             "percent", (Target(gpus("DCGM_FI_DEV_GPU_UTIL"), LEGEND),), maximum=100)
GPU = (
    BUSY,
    Panel("GPU memory in use", "Weights and KV cache are allocated at the start: it should not change later.", "mbytes",
          (Target(gpus("DCGM_FI_DEV_FB_USED"), LEGEND),)),
    Panel("GPU temperature", "A T4 without enough air slows down from about 85 °C on.", "celsius",
          (Target(gpus("DCGM_FI_DEV_GPU_TEMP"), LEGEND),)),
    Panel("GPU power", "A T4 takes 70 W at most.", "watt", (Target(gpus("DCGM_FI_DEV_POWER_USAGE"), LEGEND),)),
    Panel("GPU errors (XID)", "The number of the last error, 0: none. NVIDIA's documentation of XIDs explains it.",
          "short", (Target(gpus("DCGM_FI_DEV_XID_ERRORS"), LEGEND),)),
)
