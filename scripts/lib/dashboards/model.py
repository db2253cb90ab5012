"""What a dashboard is, whoever shows it: rows of panels, each with its queries; and how queries are put together.

The queries are PromQL with Grafana's variables in it: `$namespace`, `$tenant`, `$__rate_interval`, `$__range`.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A query, and what a series of it is called: `{{label}}` stands for the label's value."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One figure. `width` is of 24 columns, `unit` is Grafana's. Of a table, the targets are its columns of values."""

    title: str
    description: str
    unit: str
    targets: tuple
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    maximum: float = None
    # Colours of a stat or gauge: (from this value on, colour), the first from None on.
    thresholds: tuple = ()
    # Of a table: the labels that are its first columns.
    columns: tuple = ()


@dataclass(frozen=True)
class Row:
    """Panels below a title."""

    title: str
    panels: tuple
    folded: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A page. `name` is its file's, and part of its id; `by_tenant`: one can choose a tenant."""

    name: str
    title: str
    description: str
    rows: tuple
    by_tenant: bool = False

    def panels(self):
        return [panel for row in self.rows for panel in row.panels]

    def panel(self, title):
        """The panel of this title, for a dashboard that shows it too."""
        return next(panel for panel in self.panels() if panel.title == title)


TENANT = 'tenant=~"$tenant"'


def series(metric, match=""):
    """The metric's series in the chosen namespaces: `llamacpp:NAME`, or `NAME` of the gateway, or `:NAME` of a rule."""
    if not metric.startswith("llamacpp:"):
        metric = "llama_gateway" + ("" if metric.startswith(":") else "_") + metric
    return '%s{namespace=~"$namespace"%s}' % (metric, ", " + match if match else "")


def total(metric, by="", match=""):
    """The sum of a gauge."""
    return "sum%s (%s)" % (_by(by), series(metric, match))


def rate(metric, by="", match=""):
    """What a counter grows by in a second."""
    return "sum%s (rate(%s[$__rate_interval]))" % (_by(by), series(metric, match))


def growth(metric, by="", match=""):
    """What a counter has grown by in the time that is shown."""
    return "sum%s (increase(%s[$__range]))" % (_by(by), series(metric, match))


def quantile(part, histogram, by="", match=""):
    """A quantile of a histogram: 0.95 for what 95 of 100 stay below."""
    labels = ", ".join(filter(None, ("le", by)))
    return "histogram_quantile(%s, %s)" % (part, rate(histogram + "_bucket", labels, match))


def quantiles(histogram, parts=(0.5, 0.95, 0.99), match=""):
    """Targets for some quantiles."""
    return tuple(Target(quantile(part, histogram, match=match), "%d of 100" % round(part * 100)) for part in parts)


def largest(count, expression):
    """The largest few: with 1,000 tenants nobody could read more."""
    return "topk(%d, %s)" % (count, expression)


def _by(labels):
    return " by (%s)" % labels if labels else ""
