"""The probes of a container, by the rules of the kubelet.

Takes a container's specification; tells whether it has started, is ready and is alive.
"""

import http.client
import socket
import ssl
import time

KINDS = ("startupProbe", "readinessProbe", "livenessProbe")


class Probe:
    """One probe: its schedule, and how often in a row it went well or badly."""

    def __init__(self, spec, ports, container, speed):
        self.spec, self.ports, self.container = spec, ports, container
        self.period = spec.get("periodSeconds", 10) / speed
        self.next = time.monotonic() + spec.get("initialDelaySeconds", 0) / speed
        self.runs = self.passed = self.failed = 0
        self.reason = "not probed yet"

    def run_if_due(self):
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + self.period
        self.reason = self.check()
        self.runs += 1
        self.passed, self.failed = (0, self.failed + 1) if self.reason else (self.passed + 1, 0)

    def succeeds(self):
        return self.passed >= self.spec.get("successThreshold", 1)

    def fails(self):
        return self.failed >= self.spec.get("failureThreshold", 3)

    def check(self):
        """None, or what is wrong."""
        seconds = self.spec.get("timeoutSeconds", 1)
        try:
            if "exec" in self.spec:
                code = self.container.execute(self.spec["exec"]["command"], timeout=seconds).returncode
                return f"it ends with {code}" if code else None
            if "tcpSocket" in self.spec:
                socket.create_connection((self.container.address, self.port("tcpSocket")), seconds).close()
                return None
            return self.get(self.spec["httpGet"], seconds)
        except (OSError, http.client.HTTPException, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"

    def get(self, get, seconds):
        at = (self.container.address, self.port("httpGet"), seconds)
        if get.get("scheme", "HTTP") == "HTTPS":
            # The kubelet does not check certificates either.
            connection = http.client.HTTPSConnection(at[0], at[1], timeout=seconds,
                                                     context=ssl._create_unverified_context())
        else:
            connection = http.client.HTTPConnection(at[0], at[1], timeout=seconds)
        try:
            headers = {one["name"]: one["value"] for one in get.get("httpHeaders", [])}
            connection.request("GET", get.get("path", "/"), headers=headers)
            status = connection.getresponse().status
            return None if 200 <= status < 400 else f"{get.get('path', '/')} answers {status}"
        finally:
            connection.close()

    def port(self, kind):
        port = self.spec[kind]["port"]
        return self.ports[port] if isinstance(port, str) else port


class Health:
    """What the probes of one container say."""

    def __init__(self, container, spec, speed):
        ports = {port["name"]: port["containerPort"] for port in spec.get("ports", []) if "name" in port}
        self.startup, self.readiness, self.liveness = (
            Probe(spec[kind], ports, container, speed) if kind in spec else None for kind in KINDS
        )
        self.started = self.startup is None
        self.ready = False

    def step(self, terminating=False):
        """Runs what is due. Returns why the container has to be restarted, or None."""
        if not self.started:
            self.startup.run_if_due()
            self.started = self.startup.succeeds()
            if self.startup.fails():
                return f"the startup probe failed {self.startup.failed} times: {self.startup.reason}"
            if not self.started:
                return None
        if self.readiness is None:
            self.ready = True
        else:
            self.readiness.run_if_due()
            if self.readiness.succeeds():
                self.ready = True
            elif self.readiness.fails():
                self.ready = False
        if self.liveness and not terminating:
            self.liveness.run_if_due()
            if self.liveness.fails():
                return f"the liveness probe failed {self.liveness.failed} times: {self.liveness.reason}"
        return None
