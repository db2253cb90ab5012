"""Alerts, provoked for real. Each function has a namespace of its own, and takes the cause away again if that is possible.

The modules are in the order of the rules: llama-server, who waits, who comes in, the books, the objectives, the platform.
"""

from . import access, accounting, objectives, platform, servers, waiting  # noqa: F401 # registers what they provoke
