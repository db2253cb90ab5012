"""Alerts on the ledger, its volume, quotas, and what is exported."""

import contextlib
import subprocess
import sys

from ..client import chat
from ..disk import Disk
from ..exporter import Receiver
from ..place import provokes
from ..processes import free_port, until
from ..servers import simulator
from .servers import CHATS

FULL = [("LlamaGatewayDataVolumeFilling", "critical"), ("LlamaGatewayDataVolumeFilling", "warning"),
        ("LlamaGatewayLedgerUnhealthy", "critical"), ("LlamaGatewayLedgerFailing", "warning"),
        ("LlamaGatewayLedgerLag", "warning"), ("LlamaGatewayUnsettledEntries", "warning"),
        ("LlamaGatewayUnrecordedRequests", "warning")]
# One entry of a ledger, as somebody would who repairs a file by hand.
DELETE = """
import sqlite3, sys
ledger = sqlite3.connect(sys.argv[1], timeout=10)
with ledger:
    ledger.execute("DELETE FROM entries WHERE request_id IN (SELECT max(request_id) FROM entries)")
ledger.close()
"""


@provokes(*FULL)
def full_disk(place):
    """The data directory is on a disk of a few megabytes, which somebody else fills."""
    disk = Disk(place.folder / "disk", "12m")
    gateway = place.gateway(simulator(place.folder).start().url, '[ledger]\non_failure = "serve"\n', disk=disk).ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    client.ask(CHATS, chat(2))
    filler = disk.outside / "filler"
    place.cause()
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    for alert, severity in FULL:
        place.keep_until_it_fires(lambda: client.ask(CHATS, chat(2)), alert, severity)
    filler.unlink()
    until("the ledger can be written again", lambda: client.ask(CHATS, chat(2))[0] == 200)
    for alert, severity in FULL:
        place.silent(alert, severity)


@provokes(("LlamaGatewayQuotaNearlyUsed", "info"))
def small_quota(place):
    """A tenant uses its quota, and gets a larger one."""
    limits = "[policies.default]\ntokens_per_day = {0}\ntokens_per_month = {0}\n"
    gateway = place.gateway(simulator(place.folder).start().url, limits.format(300)).ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()
    # Until it fires, and not once: the day may be over meanwhile.
    place.keep_until_it_fires(lambda: client.ask(CHATS, chat(5)), "LlamaGatewayQuotaNearlyUsed", "info")
    gateway.process.kill()
    gateway.configure(limits.format(300000))
    place.start(gateway)
    place.silent("LlamaGatewayQuotaNearlyUsed", "info")


@provokes(("LlamaGatewayExportStuck", "warning"), ("LlamaGatewayExportFailing", "warning"))
def export(place):
    """Nobody takes what is exported, until there is a receiver. The gateway looks for it at its start at once."""
    gateway, port = exporting(place)
    place.fires("LlamaGatewayExportStuck")
    place.fires("LlamaGatewayExportFailing")
    gateway.process.kill()
    with Receiver(port):
        place.start(gateway)
        place.silent("LlamaGatewayExportStuck")
        place.silent("LlamaGatewayExportFailing")


@provokes(("LlamaGatewayExportLost", "warning"))
def deleted_entry(place):
    """Somebody deletes an entry before there is a receiver."""
    gateway, port = exporting(place)
    # Where the disk is: SQLite follows links, and the way from here is one.
    subprocess.run([*place.disk.inside, sys.executable, "-c", DELETE, gateway.data / "ledger.sqlite"], check=True)
    place.cause()
    with Receiver(port):
        place.fires("LlamaGatewayExportLost")
        place.silent("LlamaGatewayExportLost")


def exporting(place):
    """A gateway that has something to export, and the port on which nobody takes it."""
    port = free_port()
    toml = f'[export]\nurl = "http://127.0.0.1:{port}/"\n'
    gateway = place.gateway(simulator(place.folder).start().url, toml).ready()
    client = gateway.client(gateway.create_key("acme")["key"])
    place.cause()
    for _ in range(3):
        client.ask(CHATS, chat(2))
    return gateway, port
