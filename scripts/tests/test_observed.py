"""What operators see, in a real Prometheus: every rule and panel has data under load, and alerts fire as they shall.

A real llama-server, the gateway ($GATEWAY, or what Cargo has built) and Prometheus with the rules of the manifests, a
minute of which is a second here. Needs root, for disks of its own.
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/lib"))

import overlays
from dashboards import read
from observed import alerts, bounds, durations, load, rules, table  # noqa: F401 # alerts register what they provoke
from observed.data import Expressions
from observed.disk import Disk
from observed.exporter import Exporter, platform_of
from observed.place import PROVOCATIONS, Place
from observed.processes import end_all, until
from observed.prometheus import Prometheus
from observed.servers import llama_server, variable
from observed.targets import GATEWAY, LLAMA_SERVER, NAMESPACE, Targets
from observed.watch import Watch

# Seconds within which what is not there yet must come.
SHORT = 45
# What the page of Prometheus shows where there is no data.
NOTHING = "no data"
CONSOLE = ROOT / "manifests/consoles/llama-gateway.html"
OVERLAY = ROOT / "manifests/overlays/openshift-gpt-oss-20b-t4"

# Alerts that are not provoked here, and why. promtool tests all.
NOT_PROVOKED = {
    ("LlamaServerDown", "critical"): "the same as its warning, but for 90 minutes: too long for a test",
    ("LlamaGatewayPanicked", "warning"): "a fault of the gateway, none is known",
    ("LlamaGatewaySlotsIdleWithBacklog", "warning"): "a fault of the gateway, none is known",
    ("LlamaGatewayTokenBucketDrift", "warning"): "a fault of the gateway, none is known",
}
# Alerts that the mixed load may bring: a llama-server is lost under it, and on a slow machine many wait in vain.
UNDER_LOAD = [("LlamaServerRestarting", "warning"), ("LlamaGatewayErrorBudgetBurn", "critical"),
              ("LlamaGatewayErrorBudgetBurn", "warning"), ("LlamaGatewayQueueSaturated", "warning")]
# Series that are Prometheus' own.
OF_PROMETHEUS = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added",
                 "scrape_samples_post_metric_relabeling", "ALERTS", "ALERTS_FOR_STATE"}


class Durations(unittest.TestCase):
    def test_ranges_offsets_and_subqueries_are_divided(self):
        for given, wanted in (
                ("rate(a_total[5m])", "rate(a_total[5000ms])"),
                ("a offset 1h", "a offset 60000ms"),
                ("a[1h30m:1m] offset -2d", "a[90000ms:1000ms] offset -2880000ms"),
                ("max_over_time(rate(a[5m])[3d:])", "max_over_time(rate(a[5000ms])[4320000ms:])"),
                ("a[10ms]", "a[1ms]")):
            with self.subTest(given):
                self.assertEqual(durations.scaled_expression(given), wanted)

    def test_nothing_else_changes(self):
        for given in ('m5m:rate5m{le="30s", x=~\'5m\', y=`1h`} > 14.4 # for 5m', "a5m + 1e3 + 0x5d - 60 * .5",
                      "sum by (h1h) (a) > on (d5d) 7 * 86400", 'label_replace(a, "b", "$1", "c", "(5m)\\"1h")'):
            with self.subTest(given):
                self.assertEqual(durations.scaled_expression(given), given)

    def test_rules_keep_all_but_their_times(self):
        rule = {"alert": "A", "expr": "a[1h] > 5", "for": "5m", "labels": {"window": "5m"}}
        record = {"record": "b5m", "expr": "c"}
        group, = durations.scaled_groups([{"name": "g", "interval": "1m", "rules": [rule, record]}])
        self.assertEqual(group["rules"], [rule | {"expr": "a[60000ms] > 5", "for": "5000ms"}, record])
        self.assertEqual(durations.scaled("0s"), "0s")
        with self.assertRaisesRegex(ValueError, "5 minutes is no duration"):
            durations.scaled("5 minutes")


class Names(unittest.TestCase):
    def test_names_of_metrics_are_found_wherever_they_stand(self):
        for expression, names in (
                ('sum by (up) (rate(a_total{b="c_total"}[5m])) / ignoring (d) e:f or absent(up{job="g"})',
                 {"a_total", "e:f", "up"}),
                ('{__name__="a"} unless on (b) quantile_over_time(0.9, h[1h:1m])', {"a", "h"}),
                ("time() - 5", set())):
            with self.subTest(expression):
                self.assertEqual(rules.metrics_of(expression), names)
        with self.assertRaisesRegex(ValueError, "has no name"):
            rules.metrics_of('{job="a"}')


class Bounds(unittest.TestCase):
    KNOWN = bounds.documented("| metric | type | labels | meaning |\n|---|---|---|---|\n"
                              "| `a_total` | counter | `tenant`, `period` | A. |\n"
                              "| `b_seconds` | histogram |  | B. |\n")

    def faults(self, *series):
        return list(bounds.faults(series, self.KNOWN, {"tenant": 1}))

    def test_labels_are_those_of_the_document(self):
        self.assertEqual(self.KNOWN, {"a_total": {"tenant", "period"}, "b_seconds_sum": set(),
                                      "b_seconds_count": set(), "b_seconds_bucket": {"le"}})
        good = {"__name__": "a_total", "namespace": "n", "tenant": "t", "period": "day"}
        self.assertEqual(self.faults(good), [])
        self.assertEqual(self.faults(good | {"path": "/"}),
                         ["a_total has the labels ['path', 'period', 'tenant'], not ['period', 'tenant']"])
        self.assertEqual(self.faults({"__name__": "c"}), ["c is not in docs/metrics.md"])

    def test_there_are_no_more_series_than_combinations(self):
        series = [{"__name__": "a_total", "tenant": str(number), "period": "day"} for number in range(3)]
        self.assertEqual(self.faults(*series[:2]), [])
        self.assertEqual(self.faults(*series), ["a_total has 3 series, more than 2"])


class Observed(unittest.TestCase):
    """One Prometheus for all: the mixed load in the namespace of the manifests, and one more for each provocation."""

    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise AssertionError("disks are mounted for it\nhint: run it as root")
        cls.folder = Path(tempfile.mkdtemp(prefix="observed-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(end_all)
        objects = overlays.parse(overlays.render(OVERLAY), OVERLAY.name)
        cls.groups = rules.groups(objects)
        cls.panels = list(read.queries(ROOT, {"namespace": NAMESPACE}))
        cls.targets = Targets(cls.folder, objects)
        platform = Exporter(platform_of(NAMESPACE))
        cls.addClassCleanup(platform.end)
        cls.targets.put("platform", NAMESPACE, platform.address)
        cls.disk = Disk(cls.folder / "disk", "2g")
        cls.serve()
        cls.prometheus = Prometheus(cls.folder, cls.targets, [f"--web.console.templates={CONSOLE.parent}"])
        cls.watch = Watch(cls.prometheus)
        cls.addClassCleanup(cls.watch.end)
        cls.provoke()
        # Prometheus takes some seconds to find its targets: the alert on a gateway that is gone would be right to fire.
        up = f'up{{namespace="{NAMESPACE}", job="{GATEWAY}"}} == 1'
        until("the gateway is scraped", lambda: cls.prometheus.now(up))
        cls.prometheus.evaluate(durations.scaled_groups(cls.groups))
        cls.drive()
        cls.addClassCleanup(cls.report)

    @classmethod
    def serve(cls):
        folder = cls.folder / NAMESPACE
        folder.mkdir()
        cls.llama_server = llama_server(folder, variable("MODEL")).start()
        cls.gateway = load.start(folder, cls.disk, cls.llama_server)
        for service, address in ((GATEWAY, cls.gateway.admin), (LLAMA_SERVER, cls.llama_server.address)):
            cls.targets.put(service, NAMESPACE, address)

    @classmethod
    def provoke(cls):
        """Begins to provoke alerts, all at once."""
        pool = ThreadPoolExecutor(len(PROVOCATIONS))
        cls.addClassCleanup(pool.shutdown)
        cls.places = {name: Place(name, cls.folder, cls.disk, cls.targets, cls.watch) for name in PROVOCATIONS}
        cls.provocations = {name: pool.submit(PROVOCATIONS[name].run, place) for name, place in cls.places.items()}

    @classmethod
    def drive(cls):
        """Drives the mixed load, under which llama-server is lost once and comes back, until all has been seen."""
        cls.gateway.ready()
        mixed = load.Load(cls.gateway)
        cls.addClassCleanup(mixed.end)
        until("streams are answered", lambda: mixed.answers.get(("stream", 200), 0) > 3)
        cls.llama_server.kill()
        cls.llama_server.start()
        cls.recorded = Expressions({name: name for name in rules.recorded(cls.groups)})
        cls.shown = Expressions({f"{one.dashboard}, {one.panel}, {one.legend}: {one.expression}":
                                 durations.scaled_expression(one.expression) for one in cls.panels})
        with contextlib.suppress(AssertionError):  # what is missing is told by the tests
            until("all is seen", lambda: cls.all_is_seen(mixed), patience=SHORT, pause=1)
        mixed.end()
        cls.answers = mixed.answers

    @classmethod
    def report(cls):
        """What was seen, for people."""
        groups = [("the panels", cls.shown), ("the recorded series", cls.recorded)]
        lines = [f"{len(one.expressions)} expressions of {what}: {sum(one.series.values())} series"
                 for what, one in groups]
        print("\n" + "\n".join(lines))
        rows = [(*alert, name.replace("_", " "), f"{seconds:.1f} s", place.afterwards.get(alert, "not silent"))
                for name, place in cls.places.items() for alert, seconds in place.took.items()]
        print(table.text([("alert", "severity", "provoked by", "fired after", "then"), *sorted(rows)]))

    @classmethod
    def all_is_seen(cls, mixed):
        _, cls.page = cls.prometheus.get(f"/consoles/{CONSOLE.name}?namespace={NAMESPACE}")
        has_data = [one.have_data(cls.prometheus) for one in (cls.recorded, cls.shown)]
        return all(has_data) and NOTHING not in cls.page and load.EXPECTED <= set(mixed.answers)

    def test_every_rule_is_evaluated_without_an_error(self):
        found = until("every rule is evaluated", self.evaluated)
        self.assertEqual(sorted(rule["name"] for rule in found),
                         sorted(rule.get("alert") or rule["record"] for rule in rules.rules(self.groups)))
        self.nothing([(rule["name"], rule.get("lastError")) for rule in found
                      if rule["health"] != "ok" or rule.get("lastError")], "not evaluated")
        for rule in rules.rules(self.groups):
            self.prometheus.now(durations.scaled_expression(rule["expr"]))

    def evaluated(self):
        found = self.prometheus.rules()
        return found if all(rule["health"] != "unknown" for rule in found) else None

    def test_every_metric_that_a_rule_or_a_panel_uses_exists(self):
        expressions = [rule["expr"] for rule in rules.rules(self.groups)] + [one.expression for one in self.panels]
        used = set().union(*map(rules.metrics_of, expressions))
        with contextlib.suppress(AssertionError):  # some come when an alert is provoked
            until("all metrics exist", lambda: used <= self.prometheus.names(), SHORT)
        self.nothing(used - self.prometheus.names(), "no such metric")

    def test_every_recorded_series_has_data(self):
        self.nothing(self.recorded.refused.values(), "not evaluated")
        self.nothing(self.recorded.empty(), "no data")

    def test_every_panel_has_data(self):
        self.nothing(self.shown.refused.values(), "not evaluated")
        self.nothing(self.shown.empty(), "no data")

    def nothing(self, found, what):
        """One line for each thing that was found and must not be there."""
        self.assertFalse(found, "".join(f"\n{what}: {one}" for one in sorted(found, key=str)))

    def test_the_load_was_as_mixed_as_it_says(self):
        self.nothing(load.EXPECTED - set(self.answers), "nobody was answered so")

    def test_the_page_of_prometheus_itself_shows_data(self):
        self.assertIn("</html>", self.page)
        sections = re.findall(r'<section data-title="(.*?)"(.*?)</section>', self.page, re.DOTALL)
        self.assertGreater(len(sections), 10)
        self.nothing([title for title, text in sections if NOTHING in text], "no data on the page")

    def test_labels_are_bounded_and_nothing_that_a_client_sent_is_in_them(self):
        series = [one for one in self.prometheus.series(f'{{namespace="{NAMESPACE}", job="kimi-k2-gateway"}}')
                  if one["__name__"] not in OF_PROMETHEUS]
        configured = {"tenant": len(load.TENANTS), "key_id": len(load.TENANTS), "model": 1, "upstream": 1, "issuer": 2,
                      "version": 1, "file": 1}
        known = bounds.documented((ROOT / "docs/metrics.md").read_text())
        self.nothing(list(bounds.faults(series, known, configured)), "series")
        every = self.prometheus.series('{__name__=~".+"}')
        self.assertGreater(len(every), len(series))
        self.nothing([one for one in every if load.HOSTILE in str(one).lower()], "a client has sent this")

    def test_alerts_fire_where_they_are_provoked_and_nowhere_else(self):
        errors = {name: future.exception() for name, future in self.provocations.items()}
        self.nothing([f"{name}: {error}" for name, error in errors.items() if error], "not provoked")
        for name, place in self.places.items():
            self.assertEqual(set(place.took), set(PROVOCATIONS[name].fires), name)
            self.assertEqual(set(place.afterwards), set(place.took), f"{name} must see them silent, or say why not")
        allowed = {(*alert, name) for name, one in PROVOCATIONS.items() for alert in (*one.fires, *one.also)}
        allowed |= {(*alert, NAMESPACE) for alert in UNDER_LOAD}
        self.nothing(set(self.watch.seen) - allowed, "this fired, and nobody provoked it")

    def test_each_alert_is_provoked_or_said_not_to_be(self):
        provoked = {alert for one in PROVOCATIONS.values() for alert in one.fires}
        self.nothing(provoked & set(NOT_PROVOKED), "this is provoked all the same")
        known = set(rules.alerts(self.groups))
        self.nothing(known - provoked - set(NOT_PROVOKED), "provoke it, or say why not")
        self.nothing((provoked | set(NOT_PROVOKED)) - known, "there is no such alert")


if __name__ == "__main__":
    unittest.main()
