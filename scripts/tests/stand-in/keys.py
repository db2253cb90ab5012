"""`llama-gateway keys` in the gateway's pod, as far as deploy.sh calls it."""

import base64
import json
import os

from state import Refused


def letters(count):
    return base64.b32encode(os.urandom(64)).decode().lower()[:count]


def keys(words, options, known):
    """What the command prints, and the keys after it."""
    if words == ["list"]:
        return json.dumps([{name: key[name] for name in ("id", "tenant", "state")} for key in known]), known
    if words == ["create"]:
        key = {"id": letters(8), "tenant": options["--tenant"], "label": options["--label"], "state": "valid"}
        key["secret"] = f"sk-lgw-{key['id']}-{letters(59)}"
        key["expires"] = options.get("--expires", "")
        return key["secret"], [*known, key]
    if words[:1] == ["revoke"] and words[1] in [key["id"] for key in known]:
        changed = [{**key, "state": "revoked"} if key["id"] == words[1] else key for key in known]
        return f"{words[1]} is revoked.", changed
    raise Refused(f"stand-in: unknown call of keys: {words}", 64)
