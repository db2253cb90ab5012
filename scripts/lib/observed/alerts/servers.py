"""Alerts on the gateway and on llama-server as processes."""

import threading

from ..client import chat
from ..place import provokes
from ..servers import llama_server, simulator, variable
from ..targets import GATEWAY

CHATS = "/v1/chat/completions"


@provokes(("LlamaGatewayDown", "critical"), ("LlamaGatewayRestarting", "warning"))
def killed_gateway(place):
    """The gateway is killed and comes again, twice."""
    gateway = place.gateway(simulator(place.folder).start().url).ready()
    place.until_scraped(GATEWAY)
    place.cause()
    gateway.process.kill()
    place.fires("LlamaGatewayDown", "critical")
    place.start(gateway)
    place.silent("LlamaGatewayDown", "critical")
    place.until_scraped(GATEWAY)
    place.cause()
    gateway.process.kill()
    place.start(gateway)
    place.fires("LlamaGatewayRestarting")
    place.silent("LlamaGatewayRestarting")


@provokes(("LlamaServerDown", "warning"), ("LlamaServerReplicaDown", "warning"),
          also=[("LlamaServerRestarting", "warning")])
def killed_llama_server(place):
    """A real llama-server is killed, and started again."""
    upstream = llama_server(place.folder, variable("TINY_MODEL")).start().ready()
    place.gateway(upstream.url).ready()
    place.cause()
    upstream.kill()
    place.fires("LlamaServerReplicaDown")
    place.fires("LlamaServerDown")
    upstream.start()
    place.silent("LlamaServerReplicaDown")
    place.silent("LlamaServerDown")


@provokes(("LlamaServerStuckLoading", "warning"), also=[("LlamaServerDown", "warning")])
def loading(place):
    """A llama-server loads for an hour, until it is replaced by one that does not."""
    upstream = simulator(place.folder).start("--load-ms", 3_600_000)
    place.gateway(upstream.url)
    place.cause()
    place.fires("LlamaServerStuckLoading")
    upstream.kill()
    upstream.start()
    place.silent("LlamaServerStuckLoading")


@provokes(("LlamaServerWedged", "critical"), ("LlamaServerRestarting", "warning"))
def wedged(place):
    """A slot never moves again, until its process is another one."""
    upstream = simulator(place.folder, "--slots", 2).start().ready()
    gateway = place.gateway(upstream.url, '[upstream]\nwedged_after = "1s"\ninspect_interval = "2s"\n').ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()
    stuck = threading.Thread(target=client.ask, args=(CHATS, chat(100) | fault("wedge")), daemon=True)
    stuck.start()
    place.fires("LlamaServerWedged", "critical")
    place.cause()
    upstream.kill()
    upstream.start().ready()
    place.silent("LlamaServerWedged", "critical")
    place.fires("LlamaServerRestarting")
    place.silent("LlamaServerRestarting")
    stuck.join()


def fault(name):
    """The order of a fault that the gateway lets pass."""
    return {"chat_template_kwargs": {"sim_fault": name}}


@provokes(("LlamaServerForeignRequests", "warning"), ("LlamaGatewayAccountingDrift", "warning"))
def foreign(place):
    """Somebody asks llama-server without the gateway, and leaves. What that took is missing in the ledger for a day."""
    upstream = simulator(place.folder, "--slots", 2, "--context", 100000).start().ready()
    place.gateway(upstream.url, '[upstream]\ninspect_interval = "2s"\n[audit]\ninterval = "5s"\n').ready()
    place.cause()
    with upstream.client().sent(CHATS, chat(40000, stream=True)):
        place.fires("LlamaServerForeignRequests")
    place.silent("LlamaServerForeignRequests")
    place.fires("LlamaGatewayAccountingDrift")
    place.stays("LlamaGatewayAccountingDrift", "warning", "the audit looks back for 24 hours")


@provokes(("LlamaGatewayLookupsFailing", "warning"))
def unknown_name(place):
    """One of two names of a llama-server is not found, until it is known."""
    upstream = simulator(place.folder).start().ready()
    hosts, order = place.folder / "hosts", place.folder / "nsswitch.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    order.write_text("hosts: files\n")
    mounts = f'mount --bind "{hosts}" /etc/hosts && mount --bind "{order}" /etc/nsswitch.conf && exec "$@"'
    toml = f'[upstream]\nurls = ["{upstream.url}", "dns://nobody:{upstream.port}"]\nresolve_interval = "1s"\n'
    place.cause()
    place.gateway(None, toml, inside=["unshare", "--mount", "sh", "-c", mounts, "sh"]).ready()
    place.fires("LlamaGatewayLookupsFailing")
    with open(hosts, "a") as file:  # the file that is mounted, not another one of its name
        file.write("127.0.0.1 nobody\n")
    place.silent("LlamaGatewayLookupsFailing")
