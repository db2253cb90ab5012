"""The gateway, a real llama-server and a simulated one: each the real binary, on ports of its own."""

import http.client
import json
import os
import subprocess
from pathlib import Path

from .client import Client
from .processes import Process, free_port, until

ROOT = Path(__file__).resolve().parents[3]
ADMIN_KEY = "the-admin-key-of-the-tests"
UPSTREAM_KEY = "the-key-of-llama-server"

# Of a token issuer: RFC 7517, appendix A.1.
SET_OF_KEYS = json.dumps({"keys": [{
    "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "1",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]})


def binary(name, variable):
    """The path of a binary of the project: the one that a variable names, or the one that Cargo has built."""
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    path = Path(os.environ.get(variable) or target / "debug" / name)
    if not path.is_file():
        raise AssertionError(f"{path} is missing\nhint: cargo build --workspace, or name one in {variable}")
    return path


def variable(name):
    """What the environment must name; there is no skipping."""
    if not os.environ.get(name):
        raise AssertionError(f"{name} is not set\nhint: run scripts/test, which fetches what the tests need")
    return os.environ[name]


class Gateway:
    """A gateway with a data directory of its own on a disk. It can be killed and started again."""

    def __init__(self, folder, disk, upstream, toml="", certificate=None, inside=()):
        folder.mkdir(parents=True)
        self.folder, self.upstream, self.certificate = folder, upstream, certificate
        self.inside = [*disk.inside, *inside]
        name = folder.parent.name
        self.data, self.data_outside = disk.folder / name, disk.outside / name
        self.data_outside.mkdir()
        self.configure(toml)
        (folder / "admin.key").write_text(ADMIN_KEY)
        (folder / "upstream.key").write_text(UPSTREAM_KEY)
        self.process = None

    def configure(self, toml):
        """Counts from the next start on."""
        (self.folder / "config.toml").write_text(toml)

    def start(self):
        """Starts it and waits until it listens."""
        announced = self.data_outside / "serve.json"
        command = [*self.inside, binary("llama-gateway", "GATEWAY"), "serve", "--config", self.folder / "config.toml",
                   "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", self.data]
        if self.upstream:  # otherwise its configuration names some
            command += ["--upstream", self.upstream]
        environment = {"LLAMA_GATEWAY_ADMIN_KEY_FILE": str(self.folder / "admin.key"),
                       "LLAMA_GATEWAY_UPSTREAM_API_KEY_FILE": str(self.folder / "upstream.key")}
        announced.unlink(missing_ok=True)
        self.process = Process("the gateway", command, self.folder / "gateway.log", environment)

        def addresses():
            self.process.check()
            try:
                return json.loads(announced.read_text())
            except (OSError, ValueError):
                return None

        told = until("the gateway listens", addresses)
        self.address, self.admin = told["listen"], told["admin_listen"]
        return self

    def ready(self):
        """Waits until it has a llama-server."""
        until("the gateway is ready", lambda: Client(self.admin).ask("/readyz")[0] == 200)
        return self

    def client(self, key):
        return Client(self.address, key, self.certificate)

    def administer(self, path, body=None, method=None):
        """Asks the admin API, with its key."""
        status, text = Client(self.admin, ADMIN_KEY).ask(path, body, method=method)
        assert status in (200, 201), f"{path}: {status} {text}"
        return json.loads(text)

    def create_key(self, tenant, **further):
        """A new key, as the admin API tells it."""
        return self.administer("/v1/keys", {"tenant": tenant} | further)


class Upstream:
    """A llama-server on a port of its own, where it can be started again."""

    def __init__(self, name, command, log):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.name, self.log = name, log
        self.command = [*command(self.address)]
        self.process = None

    @property
    def url(self):
        return f"http://{self.address}"

    def start(self, *further):
        self.process = Process(self.name, [*self.command, *further], self.log)
        return self

    def healthy(self):
        self.process.check()
        connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ready(self):
        until(f"{self.name} is ready", self.healthy)
        return self

    def kill(self):
        self.process.kill()

    def client(self):
        """Who asks it without the gateway."""
        return Client(self.address, UPSTREAM_KEY)


def llama_server(folder, model, slots=2, context=2048):
    """A real one, with a key, as in the manifests."""
    key = folder / "llama-server.key"
    key.write_text(UPSTREAM_KEY)

    def command(address):
        host, port = address.split(":")
        return [variable("LLAMA_SERVER"), "-m", model, "--host", host, "--port", port, "-np", slots,
                "-c", slots * context, "-t", 1, "--threads-http", 32, "--no-ui", "--metrics", "--slots",
                "--api-key-file", key, "--alias", "test-model"]

    return Upstream("llama-server", command, folder / "llama-server.log")


def simulator(folder, *options):
    """A simulated one."""
    def command(address):
        return [binary("loadtest", "LOADTEST"), "sim", "--listen", address, "--alias", "test-model", *options]

    return Upstream("the simulated llama-server", command, folder / "sim.log")


def certificate(folder, days):
    """A certificate for 127.0.0.1 that its own key has signed, and that key."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", str(days), "-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", folder / "tls.key.new", "-out", folder / "tls.crt.new"],
                   check=True, capture_output=True)
    # The gateway looks for changes: it must not read half a file.
    (folder / "tls.key.new").rename(folder / "tls.key")
    (folder / "tls.crt.new").rename(folder / "tls.crt")
    return folder / "tls.crt", folder / "tls.key"


def issuer(file):
    """The configuration of a token issuer whose keys are in a file."""
    return (f'[issuers.idp]\nissuer = "https://idp.example"\naudience = ["llm"]\njwks_file = "{file}"\n'
            'tenant = "acme"\n')
