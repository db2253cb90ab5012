"""Provokes alerts for real, each in a namespace of its own, and takes the cause away again where that is possible."""

import threading
from concurrent.futures import ThreadPoolExecutor

from .client import chat
from .exporter import Exporter
from .place import provokes
from .processes import until
from .servers import llama_server, simulator, variable

PATH = "/v1/chat/completions"


def keep(place, alert, severity, act, pause=0.05):
    """Repeats something until an alert fires."""
    until(f"{alert} fires in {place.namespace}", lambda: act() or place.fired(alert, severity), pause=pause)
    place.fires(alert, severity)


@provokes(("LlamaGatewayDown", "critical"))
def killed_gateway(place):
    """The gateway is killed; another one comes on the same data."""
    gateway = place.gateway(simulator(place.folder).start().url).ready()
    until("the gateway is scraped", lambda: up(place))
    place.cause()
    gateway.process.kill()
    place.fires("LlamaGatewayDown", "critical")
    place.start(gateway)
    place.silent("LlamaGatewayDown", "critical")


def up(place):
    found = place.watch.prometheus.now(f'up{{job="kimi-k2-gateway", namespace="{place.namespace}"}}')
    return found and found[0][1] == 1


@provokes(("LlamaServerDown", "warning"))
def killed_llama_server(place):
    """A real llama-server is killed, and started again."""
    upstream = llama_server(place.folder, variable("TINY_MODEL")).start().ready()
    place.gateway(upstream.url).ready()
    place.cause()
    upstream.kill()
    place.fires("LlamaServerDown")
    upstream.start()
    place.silent("LlamaServerDown")


@provokes(("LlamaServerWedged", "critical"))
def wedged(place):
    """A slot that never moves again, until its process is another one."""
    upstream = simulator(place.folder, "--slots", 2).start().ready()
    gateway = place.gateway(upstream.url, '[upstream]\nwedged_after = "1s"\ninspect_interval = "2s"\n').ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()
    stuck = threading.Thread(target=client.ask, args=(PATH, chat(100) | fault("wedge")), daemon=True)
    stuck.start()
    place.fires("LlamaServerWedged", "critical")
    upstream.kill()
    upstream.start().ready()
    place.silent("LlamaServerWedged", "critical")
    stuck.join()


def fault(name):
    """The order of a fault that the gateway lets pass."""
    return {"chat_template_kwargs": {"sim_fault": name}}


@provokes(("LlamaGatewayQueueSaturated", "warning"))
def flood(place):
    """Six at once, where one may run and one may wait."""
    upstream = simulator(place.folder, "--slots", 1).start()
    gateway = place.gateway(upstream.url, "[policies.default]\nqueued_requests = 1\n").ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()

    def client_of_many(_):
        until("the queue is saturated", lambda: client.ask(PATH, chat(30)) and place.fired("LlamaGatewayQueueSaturated"))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(client_of_many, range(6)))
    place.fires("LlamaGatewayQueueSaturated")
    place.silent("LlamaGatewayQueueSaturated")


@provokes(("LlamaServerForeignRequests", "warning"))
def foreign(place):
    """Somebody asks llama-server without the gateway, and leaves."""
    upstream = simulator(place.folder, "--slots", 2, "--context", 100000).start().ready()
    place.gateway(upstream.url, '[upstream]\ninspect_interval = "2s"\n[audit]\ninterval = "5s"\n').ready()
    connection = upstream.client().connect()
    place.cause()
    upstream.client().send(connection, PATH, chat(40000, stream=True))
    place.fires("LlamaServerForeignRequests")
    connection.close()
    place.silent("LlamaServerForeignRequests")


@provokes(("LlamaGatewayLedgerUnhealthy", "critical"))
def full_disk(place):
    """The data directory is on a disk of a few megabytes, which somebody else fills."""
    upstream = simulator(place.folder).start()
    data = place.folder / "gateway/data"
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=12m tmpfs "$0" && exec "$@"', data]
    gateway = place.gateway(upstream.url, inside=mount).ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    filler = gateway.inner(data / "filler")
    place.cause()
    fill(filler)
    keep(place, "LlamaGatewayLedgerUnhealthy", "critical", lambda: client.ask(PATH, chat(2)) and False)
    filler.unlink()
    until("the ledger can be written again", lambda: client.ask(PATH, chat(2))[0] == 200)
    place.silent("LlamaGatewayLedgerUnhealthy", "critical")


def fill(path, leave=0):
    """Takes what is free, but for so many bytes."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))


@provokes(("LlamaGatewayDeclaredKeysUnusable", "warning"))
def broken_keys(place):
    """The file of declared keys becomes nonsense, and is put right."""
    upstream = simulator(place.folder).start()
    file = place.folder / "keys.toml"
    file.write_text("")
    place.gateway(upstream.url, f'[keys]\nfile = "{file}"\n').ready()
    place.cause()
    file.write_text("no keys\n")
    place.fires("LlamaGatewayDeclaredKeysUnusable")
    file.write_text("")
    place.silent("LlamaGatewayDeclaredKeysUnusable")


@provokes(("LlamaGatewayVolumeFilling", "warning"))
def full_volume(place):
    """The kubelet says so, for whom something stands here; see `exporter`."""
    claim = f'{{namespace="{place.namespace}",persistentvolumeclaim="kimi-k2-gateway-data"}}'
    free = f"kubelet_volume_stats_available_bytes{claim}"
    kubelet = Exporter({f"kubelet_volume_stats_capacity_bytes{claim}": 1e9, free: 5e7})
    place.targets.put("platform", place.namespace, kubelet.address)
    place.fires("LlamaGatewayVolumeFilling")
    kubelet.set(free, 5e8)
    place.silent("LlamaGatewayVolumeFilling")
    kubelet.end()
