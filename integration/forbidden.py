"""What each role of a keydist cluster must not do in NATS, as tables: subjects, and allowed requests turned around."""

from __future__ import annotations

import json
from typing import Final

from keydist.adapters.nats.bucket import IMPORTED_INFO, IMPORTED_READ
from keydist.adapters.nats.permissions import subjects

USE: Final = subjects()
API: Final = "$JS.API"
OTHERS: Final = {"lead-1": ("lead-2", "node-b"), "node-a": ("lead-1", "node-b"), "operator": ("lead-1", "node-b")}
# To whoever: they would change or read streams, consumers, servers, or what others say.
NOBODYS: Final = [
    *(f"{API}.{call}.{stream}" for stream in USE.streams for call in (
        "STREAM.DELETE", "STREAM.UPDATE", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "STREAM.RESTORE",
        "STREAM.LEADER.STEPDOWN", "STREAM.PEER.REMOVE", "CONSUMER.CREATE", "CONSUMER.NAMES", "CONSUMER.LIST",
    )),
    *(f"{API}.{call}.{stream}.c" for stream in USE.streams for call in (
        "CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.MSG.NEXT", "CONSUMER.DELETE", "CONSUMER.INFO",
    )),
    f"{API}.CONSUMER.CREATE.KV_keydist.c.{USE.entry}",
    f"{API}.STREAM.PURGE.KV_keydist",
    f"{API}.STREAM.PURGE.keydist-audit",
    f"{API}.STREAM.CREATE.another",
    f"{API}.STREAM.NAMES",
    f"{API}.STREAM.LIST",
    f"{API}.META.LEADER.STEPDOWN",
    f"{API}.SERVER.REMOVE",
    f"{API}.ACCOUNT.PURGE.KEYS",
    "$KV.keydist.another",
    "keydist.changed.signing-key",
    "keydist.nodes.node-b",
    "_INBOX_node-b.x",
    "_INBOX_lead-2.x",
    "_R_.x",
    "$JS.ACK.KV_keydist.c.1.1.1.1.0",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.ACCOUNT.KEYS.CONNZ",
    "$SYS.ACCOUNT.KEYS.CONNECT",
    "elsewhere",
]  # fmt: skip
MADE: Final = [f"{API}.STREAM.CREATE.{stream}" for stream in USE.streams]
PURGE: Final = f"{API}.STREAM.PURGE.KV_keydist-nodes"
PUBLISHED: Final = {
    "node-a": [
        *NOBODYS, *MADE, PURGE, USE.entry, USE.info, USE.records_info,
        USE.imported_info, USE.imported_records_info,
        *(f"{API}.STREAM.MSG.GET.{stream}" for stream in USE.streams),
        f"{API}.DIRECT.GET.KV_keydist", f"{API}.DIRECT.GET.KV_keydist.$KV.keydist.another",
        f"{API}.DIRECT.GET.KV_keydist-nodes", f"{API}.DIRECT.GET.KV_keydist-nodes.{USE.records}node-a",
        f"{API}.DIRECT.GET.KV_keydist-nodes.{USE.records}node-b", USE.trail_get, "keydist.who",
    ],
    "lead-1": [
        *NOBODYS, *MADE, PURGE, USE.info, USE.records_info, f"{IMPORTED_INFO}.keydist-audit",
        *(f"{API}.STREAM.MSG.GET.{stream}" for stream in USE.streams),
    ],
    "operator": [*NOBODYS, USE.entry, IMPORTED_READ, f"{USE.records}operator", f"{USE.trail}operator"],
}  # fmt: skip
HEARD: Final = [
    ">", "*", "_INBOX.>", "_INBOX_node-b.>", "_INBOX_lead-2.x", "*.>", "_R_.>", "$KV.>", USE.entry,
    f"{USE.records}>", "keydist.>", "keydist.audit.>", f"{USE.trail}node-b", "$JS.>", "$JS.API.>", "$JS.EVENT.>",
    "$JS.ACK.>", "$SYS.>", "$SYS.REQ.>", IMPORTED_READ, f"{USE.entry} a-queue",
]  # fmt: skip
SUBSCRIBED: Final = {
    "node-a": [*HEARD, "keydist.nodes.>", "keydist.nodes.node-b"],
    "lead-1": HEARD,
    "operator": [*HEARD, "keydist.who"],
}


def others_of(role: str) -> list[str]:
    """Return the subjects of other nodes' records and trails."""
    written = [start + name for name in OTHERS[role] for start in (USE.records, USE.trail)]
    return written + ([USE.trail_last + name for name in OTHERS[role]] if role == "node-a" else [])


READ: Final = json.dumps({"last_by_subj": USE.entry}).encode()
# What a role may ask for, to be answered where it may not write. An empty answer is a whole request to delete a stream.
ASKED: Final = {
    "node-a": {
        USE.direct_get: b"", IMPORTED_READ: READ, f"{USE.records}node-a": b"planted", f"{USE.trail}node-a": b"planted",
        f"{USE.trail_last}node-a": b"",
    },
    "lead-1": {
        f"{USE.records}lead-1": b"", f"{USE.trail}lead-1": b"planted", USE.direct_get: b"", IMPORTED_READ: READ,
        USE.imported_info: b"", USE.imported_records_info: b"", USE.trail_get: b'{"seq":1}',
        f"{API}.DIRECT.GET.KV_keydist-nodes.{USE.records}lead-1": b"",
        f"{API}.DIRECT.GET.KV_keydist-nodes.{USE.records}nobody": b"", f"{USE.trail_last}lead-1": b"",
    },
}  # fmt: skip
PLANTED_AT: Final = [
    "$KV.keydist.another", f"{USE.records}node-b", f"{USE.records}lead-2", f"{USE.records}new",
    f"{USE.trail}node-b", f"{USE.trail}lead-2", f"{USE.trail}new", "_INBOX_node-b.x", "_INBOX_lead-2.x",
    *(f"{API}.STREAM.{call}.{stream}" for call in ("DELETE", "PURGE", "MSG.DELETE") for stream in USE.streams),
    f"{API}.CONSUMER.CREATE.KV_keydist", f"{API}.CONSUMER.DURABLE.CREATE.KV_keydist.c", "keydist.who",
]  # fmt: skip
HEADERS: Final[tuple[dict[str, str] | None, ...]] = (
    None, {"Nats-Rollup": "all"}, {"Nats-Rollup": "sub"}, {"KV-Operation": "PURGE"}, {"Nats-TTL": "1s"},
)  # fmt: skip


def planted_at(role: str) -> list[str]:
    """Return where no answer of a role's may arrive: the keyset too, but for who may write it."""
    return PLANTED_AT if role == "lead-1" else [USE.entry, *PLANTED_AT]
