"""Quantities of Kubernetes, and the durations of those who each write them in another way.

Every function takes the text and gives a number, or None for what its reader would refuse or drop.
"""
import re
from decimal import Decimal

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?\d+))?")
_SUFFIXES = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_SUFFIXES.update({letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)})
_SUFFIXES.update({letter + "i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)})

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def quantity(text):
    """A quantity of Kubernetes (`64Gi`, `500m`, `1e3`)."""
    match = _QUANTITY.fullmatch(str(text))
    if not match:
        return None
    number, suffix, exponent = match.groups()
    return Decimal(number) * (_SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0))


def router_seconds(text):
    """A duration of OpenShift's router. It drops others silently; without a unit it means milliseconds."""
    match = re.fullmatch(r"([1-9][0-9]*)(us|ms|s|m|h|d)?", str(text))
    return int(match.group(1)) * _SECONDS[match.group(2) or "ms"] if match else None


def nginx_seconds(text):
    """A timeout of the Ingress controller for nginx: a number of seconds, without a unit."""
    return int(text) if re.fullmatch(r"[1-9][0-9]*", str(text)) else None


def nginx_bytes(text):
    """A size of nginx (`16m`); 0 is no limit."""
    match = re.fullmatch(r"([0-9]+)([kmg]?)", str(text).lower())
    if not match:
        return None
    size = int(match.group(1)) * 1024 ** " kmg".index(match.group(2) or " ")
    return size or float("inf")


def gateway_api_seconds(text):
    """A duration of the Gateway API (GEP-2257); 0 switches the timeout off."""
    if not re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", str(text)):
        return None
    return _sum(text) or float("inf")


def prometheus_seconds(text):
    """A duration of Prometheus."""
    whole = "".join(r"([0-9]+%s)?" % unit for unit in ("y", "w", "d", "h", "m", "s", "ms"))
    return _sum(text) if text not in (None, "") and re.fullmatch(whole, str(text)) else None


def setting_seconds(text):
    """A duration in the gateway's configuration (`2h 30m`)."""
    return _sum(text) if re.fullmatch(r"\s*([0-9]+\s*(us|ms|s|m|h|d|w)\s*)+", str(text)) else None


def _sum(text):
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)\s*(ms|us|[smhdwy])", str(text)))
