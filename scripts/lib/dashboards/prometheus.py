"""Writes a dashboard as a page of Prometheus' console templates: for clusters without Grafana.

The page needs nothing but Prometheus itself: no library of templates (new versions have none), nothing from elsewhere.
Values are written by Prometheus, plots are drawn by the page's script, which asks the same Prometheus.
"""
import html
import re
from pathlib import Path

RANGE, RATE_INTERVAL = "1h", "5m"
LIST = """<ul data-legend="%(legend)s" data-query="{{ printf `%(query)s` $namespace }}">
{{ range query (printf `%(query)s` $namespace)%(ordered)s -}}
<li data-name="%(name)s"><i></i>%(name)s <b>{{ .Value | %(format)s }}</b></li>
{{ else }}<li>no data</li>
{{ end }}</ul>"""
FORMATS = {"s": "humanizeDuration", "percentunit": "humanizePercentage"}


def written(dashboard):
    """The text of the file."""
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    rows = "\n".join("<h2>%s</h2>\n<div class=row>\n%s\n</div>" % (
        html.escape(row.title), "\n".join(section(panel) for panel in row.panels)) for row in dashboard.rows)
    return (page.replace("TITLE", html.escape(dashboard.title)).replace("DESCRIPTION", html.escape(
        dashboard.description)).replace("ROWS", rows))


def section(panel):
    lists = "\n".join(values(panel, target) for target in panel.targets)
    return ('<section data-title="%(title)s" data-unit="%(unit)s"%(stacked)s>\n<h3>%(title)s</h3>\n'
            "<p>%(description)s</p>\n%(lists)s\n</section>" % {
                "title": html.escape(panel.title), "unit": html.escape(panel.unit),
                "stacked": " data-stacked" if panel.stacked else "",
                "description": html.escape(panel.description), "lists": lists})


def values(panel, target):
    """The list of a query's series with what they are now. `[label]` in the legend stands for the label's value."""
    legend = target.legend
    if panel.kind == "table":
        legend = " ".join("{{%s}}" % label for label in panel.columns) + ": " + legend
    name = re.sub(r"{{(\w+)}}", r"{{ .Labels.\1 }}", html.escape(legend))
    labels = re.findall(r"{{(\w+)}}", legend)
    query = expression(target.expression)
    ordered = "".join(' | sortByLabel "%s"' % label for label in reversed(labels))
    return LIST % {
        "legend": html.escape(re.sub(r"{{(\w+)}}", r"[\1]", legend)), "query": query, "ordered": ordered, "name": name,
        "format": FORMATS.get(panel.unit, "humanize")}


def expression(text):
    """The query as a format of printf, whose argument is the quoted pattern of the namespace."""
    if "`" in text:
        raise ValueError("%s: a page cannot hold a backtick" % text)
    text = text.replace("%", "%%").replace('"$namespace"', "%[1]s").replace("$__rate_interval", RATE_INTERVAL)
    return text.replace("$__range", RANGE).replace("$tenant", ".*")
