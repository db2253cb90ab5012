"""A mixed load on one gateway: what clients do on a usual day, and what some of them do to each other.

Takes a gateway with `CONFIGURATION`; drives it until it is told to end.
"""

import itertools
import threading

from .client import Client, chat
from .servers import SET_OF_KEYS, Gateway, certificate, issuer

# None of this may ever be seen in a label.
HOSTILE = "h0stile"

# Keys that expire so are shown, and no alert fires yet.
EXPIRES = "20d"
TENANTS = ("acme", "globex", "initech", "umbrella", "hooli", "pied")
CONFIGURATION = """
[models]
aliases = ["river"]

[upstream]
inspect_interval = "2s"

[audit]
interval = "5s"

[timeouts]
early_open = "50ms"

[policies.default]
class = "standard"

[policies.gold]
class = "interactive"
weight = 2
tokens_per_minute = 600000
tokens_per_day = 1000000000
tokens_per_month = 10000000000

[policies.batch]
class = "batch"
tokens_per_month = 1000000000

[policies.rare]
requests_per_minute = 1

[policies.few]
tokens_per_day = 10

[policies.alone]
queued_requests = 1

[policies.hasty]
max_queue_wait = "50ms"

[tenants.acme]
policy = "gold"

[tenants.globex]
policy = "batch"

[tenants.initech]
policy = "rare"

[tenants.umbrella]
policy = "few"

[tenants.hooli]
policy = "alone"

[tenants.pied]
policy = "hasty"
"""

SURFACES = {
    "/v1/chat/completions": chat(8),
    "/v1/completions": {"model": "test-model", "prompt": "Rivers are", "max_tokens": 8},
    "/v1/responses": {"model": "test-model", "input": "Rivers?", "max_output_tokens": 8},
    "/v1/messages": {"model": "test-model", "messages": [{"role": "user", "content": "Rivers?"}], "max_tokens": 8},
    "/v1/embeddings": {"model": "test-model", "input": "a river"},
    "/tokenize": {"content": "a river"},
}

# What must have been answered at least once, and how; or whether somebody could leave where he wanted to.
EXPECTED = {
    ("stream", 200), ("batch", 200), ("crowd", 200), ("crowd", 429), ("hurry", 429), ("rate", 200), ("rate", 429),
    ("quota", 429), ("too long", 400), ("bad key", 401), ("bad token", 401), ("model", 404), ("path", 404),
    ("method", 405), ("headers", 200), ("admin", 401), ("left in its stream", True), ("left the queue", True),
    *((path, 501 if path == "/v1/embeddings" else 200) for path in SURFACES),
}


def start(folder, disk, upstream):
    """The gateway that has the load: with TLS, an issuer and an export."""
    crt, key = certificate(folder, 365)
    file = folder / "issuer.json"
    file.write_text(SET_OF_KEYS)
    toml = CONFIGURATION + issuer(file) + (
        f'[server]\ntls_certificate = "{crt}"\ntls_key = "{key}"\n[export]\nfile = "{folder / "usage.jsonl"}"\n')
    return Gateway(folder / "gateway", disk, upstream.url, toml, crt).start()


class Load:
    """Threads that each repeat one thing. Each notes how often it was answered with which status."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.keys = {tenant: gateway.create_key(tenant, expires=EXPIRES)["key"] for tenant in TENANTS}
        self.answers, self._lock, self._over = {}, threading.Lock(), threading.Event()
        jobs = [(self.streams, 0.1), (self.streams, 0.1), (self.pieces, 0.1), (self.pieces, 0.1), (self.batches, 0.1),
                (self.leaves_in_stream, 0.2), (self.leaves_the_queue, 0.2), (self.refused, 1),
                (self.crowds, 8), (self.crowds, 8), (self.crowds, 8), (self.hurries, 8)]
        self._threads = [threading.Thread(target=self._repeat, args=job, daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    def end(self):
        """Lets what runs finish."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, job, pause):
        """Who is refused often pauses longer, or the alert on a full queue would be right to fire."""
        for number in itertools.count():
            job(number)
            if self._over.wait(pause):
                return

    def _client(self, tenant):
        return self.gateway.client(self.keys[tenant])

    def _ask(self, what, client, path, body=None, **further):
        status, _ = client.ask(path, body, **further)
        self.note(what, status)

    def note(self, what, status):
        with self._lock:
            self.answers[what, status] = self.answers.get((what, status), 0) + 1

    def streams(self, number):
        """Different prompts and the same ones, so that some are cached."""
        body = chat(8, stream=True)
        body["messages"][0]["content"] += f" {number % 3}"
        self._ask("stream", self._client("acme"), "/v1/chat/completions", body)

    def pieces(self, number):
        path = list(SURFACES)[number % len(SURFACES)]
        self._ask(path, self._client("acme"), path, SURFACES[path])

    def batches(self, number):
        self._ask("batch", self._client("globex"), "/v1/chat/completions", chat(12, stream=True))

    def leaves_in_stream(self, number):
        left = self._client("globex").leave("/v1/chat/completions", chat(200, stream=True), b"data:")
        self.note("left in its stream", left)

    def leaves_the_queue(self, number):
        left = self._client("acme").leave("/v1/chat/completions", chat(4, stream=True), b": queued")
        self.note("left the queue", left)

    def crowds(self, number):
        """Three of them at once, of whom one may wait."""
        self._ask("crowd", self._client("hooli"), "/v1/chat/completions", chat(8))

    def hurries(self, number):
        self._ask("hurry", self._client("pied"), "/v1/chat/completions", chat(4))

    def refused(self, number):
        """Each refusal once a round, and what a hostile client would like to see in a label."""
        acme, path = self._client("acme"), "/v1/chat/completions"
        self._ask("rate", self._client("initech"), path, chat(2))
        self._ask("quota", self._client("umbrella"), path, chat(2))
        self._ask("too long", acme, path, chat(2, messages=[{"role": "user", "content": "river " * 4000}]))
        self._ask("bad key", self.gateway.client(f"sk-lgw-{HOSTILE}"), path, chat(2))
        self._ask("bad token", self.gateway.client(f"eyJhbGciOiJFUzI1NiJ9.{HOSTILE}.{HOSTILE}"), path, chat(2))
        self._ask("model", acme, path, chat(2) | {"model": f'{HOSTILE}"}} 1\n'})
        self._ask("path", acme, f"/v1/{HOSTILE}/{number}", chat(2))
        self._ask("method", acme, path, method="PUT")
        self._ask("field", acme, path, chat(2) | {HOSTILE: HOSTILE})
        headers = {"X-Tenant": HOSTILE, "X-Request-Id": HOSTILE, "User-Agent": HOSTILE, "X-Forwarded-For": HOSTILE,
                   "traceparent": f"00-{HOSTILE}", "Referer": HOSTILE}
        self._ask("headers", acme, path, chat(2, user=HOSTILE) | {"metadata": {"tenant": HOSTILE}}, headers=headers)
        # What the admin port is asked for, in order to be refused.
        self._ask("admin", Client(self.gateway.admin, HOSTILE), f"/v1/keys/{HOSTILE}")
