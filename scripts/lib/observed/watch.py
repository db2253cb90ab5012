"""Watches which alerts fire, in which namespace, since when, and whether they are silent again."""

import threading
import time

from .processes import PATIENCE, until
from .prometheus import Refused


class Watch:
    """Polls Prometheus in a thread of its own, so that nothing that fires is missed."""

    def __init__(self, prometheus):
        self.prometheus = prometheus
        # By (alert, severity, namespace): when it was seen firing first.
        self.seen, self.now = {}, frozenset()
        self.began, self.failure = time.monotonic(), None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def _poll(self):
        while not self._over.wait(0.25):
            try:
                labels = self.prometheus.firing()
            except (OSError, Refused) as error:
                self.failure = error
                return
            self.now = frozenset((one["alertname"], one["severity"], one.get("namespace")) for one in labels)
            for one in self.now:
                self.seen.setdefault(one, time.monotonic())

    def fires(self, alert, severity, namespace, patience=PATIENCE):
        """Waits until it fires; gives the time."""
        key = (alert, severity, namespace)
        until(f"{alert} ({severity}) fires in {namespace}", lambda: self._alive() and key in self.seen, patience)
        return self.seen[key]

    def silent(self, alert, severity, namespace, patience=PATIENCE):
        """Waits until it fires no more."""
        key = (alert, severity, namespace)
        until(f"{alert} ({severity}) is silent again in {namespace}", lambda: self._alive() and key not in self.now,
              patience)

    def _alive(self):
        if self.failure:
            raise AssertionError(f"Prometheus cannot be asked for alerts: {self.failure}")
        return True

    def end(self):
        self._over.set()
        self._thread.join()
