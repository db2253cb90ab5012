"""Alerts, provoked for real. Each function has a namespace of its own, and takes the cause away again if it can.

The modules are in the order of the rules: llama-server, who waits, who comes in, the books, the objectives, traces,
the platform.
"""

from . import access, accounting, objectives, platform, servers, traces, waiting  # noqa: F401 # each registers its own
