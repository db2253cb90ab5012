"""Which expressions have had data since Prometheus was started, as a graph of all that time would show it."""

from .prometheus import Refused


class Expressions:
    """Expressions by their names. `series` counts the series of those that have had data; `refused` says why others
    cannot be evaluated."""

    def __init__(self, expressions):
        self.expressions, self.series, self.refused = expressions, {}, {}

    def have_data(self, prometheus):
        """Evaluates those that have had none yet. Whether all have had some now."""
        for name in self.empty():
            try:
                if found := prometheus.over_time(self.expressions[name]):
                    self.series[name] = len(found)
            except Refused as error:
                self.refused[name] = error
        return not self.empty()

    def empty(self):
        return set(self.expressions) - set(self.series)
