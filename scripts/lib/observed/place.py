"""Where an alert is provoked: a namespace of its own, with a gateway and what stands behind it.

Each provocation is a function that takes a `Place`; `@provokes` says which alerts it must see, and which others may
fire there because of the same cause.
"""

import time
from collections import namedtuple

from .processes import until
from .servers import Gateway
from .targets import GATEWAY

Provocation = namedtuple("Provocation", "run fires also")
PROVOCATIONS = {}


def provokes(*fires, also=()):
    """Registers a function that provokes these (alert, severity)."""
    def register(function):
        PROVOCATIONS[function.__name__] = Provocation(function, fires, also)
        return function
    return register


class Place:
    """A namespace of its own, in the Prometheus that all places share."""

    def __init__(self, name, folder, disk, targets, watch):
        self.namespace, self.folder, self.disk = name, folder / name, disk
        self.folder.mkdir()
        self.targets, self.watch = targets, watch
        # By (alert, severity): seconds from its cause to its firing, and what became of it.
        self.took, self.afterwards = {}, {}
        self.cause()

    def gateway(self, upstream, toml="", disk=None, **further):
        """A gateway in front of an upstream, that runs and is scraped."""
        gateway = Gateway(self.folder / "gateway", disk or self.disk, upstream, toml, **further)
        self.start(gateway)
        return gateway

    def start(self, gateway):
        gateway.start()
        self.scrape(GATEWAY, gateway.admin)

    def scrape(self, service, address):
        self.targets.put(service, self.namespace, address)

    def until_scraped(self, service):
        """Waits until Prometheus has reached it."""
        up = f'up{{job="{service}", namespace="{self.namespace}"}} == 1'
        until(f"{service} is scraped in {self.namespace}", lambda: self.watch.prometheus.now(up))

    def cause(self):
        """The moment from which times are taken."""
        self._caused = time.monotonic()

    def fires(self, alert, severity="warning"):
        self.took[alert, severity] = self.watch.fires(alert, severity, self.namespace) - self._caused

    def fired(self, alert, severity="warning"):
        """Whether it has been seen firing."""
        return (alert, severity, self.namespace) in self.watch.seen

    def keep_until_it_fires(self, act, alert, severity="warning"):
        """Repeats something until the alert fires."""
        until(f"{alert} ({severity}) fires in {self.namespace}", lambda: act() and self.fired(alert, severity))
        self.fires(alert, severity)

    def silent(self, alert, severity="warning"):
        """Waits until it fires no more."""
        self.watch.silent(alert, severity, self.namespace)
        self.afterwards[alert, severity] = "silent"

    def stays(self, alert, severity, reason):
        """Says why it cannot be silent before the test is over."""
        self.afterwards[alert, severity] = reason
