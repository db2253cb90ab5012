"""A real Prometheus: started with the project's rules, and asked over its HTTP API."""

import http.client
import json
import math
import os
import signal
import time
import urllib.parse

import yaml

from .processes import Process, free_port, until


class Refused(Exception):
    """Prometheus' own words on what it cannot evaluate."""


class Prometheus:
    """Evaluates every second. Scrapes every two, which is as long as a scrape may take: on a busy machine one that is
    late would begin the `for` of an alert anew."""

    def __init__(self, folder, targets, options=()):
        self.address = f"127.0.0.1:{free_port()}"
        self.began, self.rule_file = time.time(), folder / "rules.yaml"
        (folder / "prometheus.yaml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules*.yaml")],
            "scrape_configs": list(targets.scrape_configurations()),
        }))
        command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}",
                   f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.address}",
                   "--log.level=warn", *options]
        self.process = Process("prometheus", command, folder / "prometheus.log")
        until("Prometheus is ready", self._ready)

    def evaluate(self, groups):
        """Evaluates rule groups from now on; their durations must fit an evaluation every second."""
        self.rule_file.write_text(yaml.safe_dump({"groups": groups}, sort_keys=False))
        os.kill(self.process.pid, signal.SIGHUP)
        until("Prometheus has read the rules", self.rules)

    def _ready(self):
        self.process.check()
        try:
            return self.get("/-/ready")[0] == 200
        except OSError:
            return False

    def get(self, path):
        """Status and text."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def api(self, path, **parameters):
        """The data of an answer."""
        _, text = self.get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}")
        answer = json.loads(text)
        if answer["status"] != "success":
            raise Refused(f"{parameters}: {answer.get('errorType')}: {answer.get('error')}")
        return answer["data"]

    def over_time(self, expression):
        """The series of an expression since the start, as a graph has them; those without any number are left out."""
        found = self.api("query_range", query=expression, start=self.began, end=time.time(), step=1)["result"]
        return [one for one in found if any(not math.isnan(float(value)) for _, value in one["values"])]

    def now(self, expression):
        """The series of an expression at this moment."""
        return self.api("query", query=expression)["result"]

    def names(self):
        """The names of all metrics that it knows."""
        return set(self.api("label/__name__/values"))

    def series(self, selector):
        """The labels of all series that were ever there."""
        return self.api("series", **{"match[]": selector, "start": self.began - 60})

    def rules(self):
        """Every rule as Prometheus has evaluated it."""
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]

    def firing(self):
        """The labels of each alert that fires."""
        return [one["labels"] for one in self.api("alerts")["alerts"] if one["state"] == "firing"]
