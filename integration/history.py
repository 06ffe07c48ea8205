"""What the store holds, and whether a keyset descends from an earlier one."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Final

from nats.aio.client import Client

from keydist.adapters.nats.permissions import subjects
from keydist.core.accept import Held

USE: Final = subjects()


def descends(now: Held, before: Held) -> bool:
    """Tell whether a keyset is another one, or the same, some epochs later; ancestry reaches back 64 of them."""
    known = (now.digest, *now.keyset.ancestors)
    behind = now.keyset.epoch - before.keyset.epoch
    return now.keyset.lineage == before.keyset.lineage and behind >= 0 and before.digest in known[behind : behind + 1]


async def stored(operator: Client) -> tuple[bytes, float]:
    """Return the entry's bytes, and when the store took them (unix seconds, before it acknowledged); none: empty."""
    query = json.dumps({"last_by_subj": USE.entry}).encode()
    reply = await operator.request(USE.leader_get, query, timeout=10)
    message = json.loads(reply.data).get("message")
    if message is None:
        return b"", 0.0
    at = datetime.fromisoformat(message["time"])
    return base64.b64decode(message["data"]), at.timestamp()
