"""Which expressions have had data since Prometheus was started, as a graph of all that time would show it."""


class Expressions:
    """Expressions by their names; `series` counts the series of those that have had data."""

    def __init__(self, expressions):
        self.expressions, self.series = expressions, {}

    def have_data(self, prometheus):
        """Evaluates those that have had none yet. Whether all have had some now."""
        for name in self.empty():
            if found := prometheus.over_time(self.expressions[name]):
                self.series[name] = len(found)
        return not self.empty()

    def empty(self):
        return set(self.expressions) - set(self.series)
