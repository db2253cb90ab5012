"""Alerts on who comes in and by what: keys, tokens, certificates."""

from ..client import Client, chat
from ..place import provokes
from ..servers import SET_OF_KEYS, certificate, issuer, simulator
from .servers import CHATS

@provokes(("LlamaGatewayAuthenticationFailures", "warning"))
def guessing(place):
    """Somebody tries keys, as fast as the gateway refuses them."""
    gateway = place.gateway(simulator(place.folder).start().url).ready()
    guesser = Client(gateway.address, "sk-lgw-aaaaaaaa-" + "a" * 59)
    place.cause()
    place.keep_until_it_fires(lambda: guesser.ask(CHATS, chat(2)), "LlamaGatewayAuthenticationFailures")
    place.silent("LlamaGatewayAuthenticationFailures")


@provokes(("LlamaGatewayCertificateExpiring", "warning"), ("LlamaGatewayCertificateExpiring", "critical"))
def old_certificate(place):
    """A certificate for a day is replaced by one for a year."""
    crt, key = certificate(place.folder, 1)
    toml = f'[server]\ntls_certificate = "{crt}"\ntls_key = "{key}"\n'
    place.cause()
    place.gateway(simulator(place.folder).start().url, toml, certificate=crt)
    place.fires("LlamaGatewayCertificateExpiring", "warning")
    place.fires("LlamaGatewayCertificateExpiring", "critical")
    certificate(place.folder, 365)
    place.silent("LlamaGatewayCertificateExpiring", "warning")
    place.silent("LlamaGatewayCertificateExpiring", "critical")


@provokes(("LlamaGatewayKeyExpiring", "info"), ("LlamaGatewayKeyExpired", "warning"))
def old_key(place):
    """A key expires, and is revoked."""
    gateway = place.gateway(simulator(place.folder).start().url)
    place.cause()
    key = gateway.create_key("acme", expires="20s")
    place.fires("LlamaGatewayKeyExpiring", "info")
    place.fires("LlamaGatewayKeyExpired")
    place.silent("LlamaGatewayKeyExpiring", "info")
    gateway.administer(f"/v1/keys/{key['id']}/revoke", {})
    place.silent("LlamaGatewayKeyExpired")


@provokes(("LlamaGatewayIssuerKeysNotFetched", "warning"))
def issuer_without_keys(place):
    """The file of an issuer's keys becomes nonsense, and is put right."""
    file = place.folder / "keys.json"
    file.write_text(SET_OF_KEYS)
    place.gateway(simulator(place.folder).start().url, issuer(file))
    place.cause()
    file.write_text("no keys")
    place.fires("LlamaGatewayIssuerKeysNotFetched")
    file.write_text(SET_OF_KEYS)
    place.silent("LlamaGatewayIssuerKeysNotFetched")


@provokes(("LlamaGatewayDeclaredKeysUnusable", "warning"))
def broken_keys(place):
    """The file of declared keys becomes nonsense, and is put right."""
    file = place.folder / "keys.toml"
    file.write_text("")
    place.gateway(simulator(place.folder).start().url, f'[keys]\nfile = "{file}"\n').ready()
    place.cause()
    file.write_text("no keys\n")
    place.fires("LlamaGatewayDeclaredKeysUnusable")
    file.write_text("")
    place.silent("LlamaGatewayDeclaredKeysUnusable")
