"""The nats-server configuration that docs recommend for a cluster: an account for the keys, one for the followers.

Followers import what they may do, by the pattern that no attack got through: a request's reply subject is not
checked by the server, so a permission to ask would otherwise be one to write. A configuration of nats-server may
be JSON, so the value is built and dumped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import nkeys  # type: ignore[import-untyped]

OPERATOR: Final = "op"
KEYS: Final = "KEYS"
FLEET: Final = "FLEET"
CHANGED: Final = "keydist.changed.>"
RECORDS_HEARD: Final = "keydist.nodes.>"
WHO: Final = "keydist.who"
CURRENT: Final = "keydist.current"
_ANSWER: Final = {"max": 1, "expires": "5s"}


class Ports(NamedTuple):
    """The loopback ports of one server: clients, the other servers, HTTP monitoring."""

    client: int
    route: int
    monitor: int


class Subjects(NamedTuple):
    """The subjects of one keyset's buckets."""

    entry: str
    records: str
    direct_get: str
    leader_get: str
    info: str
    records_info: str
    records_get: str
    trail: str
    trail_last: str
    trail_get: str


def subjects(bucket: str = "keydist", entry: str = "signing-key") -> Subjects:
    """Return the subjects of a keyset's entry, of its node records and of its audit trail.

    A node's record is `records` + its name, its trail `trail` + its name, the end of that `trail_last` + its name.
    """
    keyset, records, trail = f"KV_{bucket}", f"KV_{bucket}-nodes", f"keydist.audit.{bucket}."
    return Subjects(
        entry=f"$KV.{bucket}.{entry}",
        records=f"$KV.{bucket}-nodes.",
        direct_get=f"$JS.API.DIRECT.GET.{keyset}.$KV.{bucket}.{entry}",
        leader_get=f"$JS.API.STREAM.MSG.GET.{keyset}",
        info=f"$JS.API.STREAM.INFO.{keyset}",
        records_info=f"$JS.API.STREAM.INFO.{records}",
        records_get=f"$JS.API.DIRECT.GET.{records}.>",
        trail=trail,
        trail_last=f"$JS.API.DIRECT.GET.{bucket}-audit.{trail}",
        trail_get=f"$JS.API.DIRECT.GET.{bucket}-audit",
    )


def write_nkeys(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Write `<directory>/<name>.nk` (0600) for each user and return the public keys by name."""
    directory.mkdir(parents=True, exist_ok=True)
    public = {}
    for name in names:
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        file = os.open(directory / f"{name}.nk", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(seed)
        public[name] = nkeys.from_seed(bytearray(seed)).public_key.decode("ascii")
    return public


def accounts(
    public: Mapping[str, str], *, leaders: Iterable[str], followers: Iterable[str], use: Subjects
) -> dict[str, Any]:
    """Return the member `accounts`; `public` holds the nkeys of all leaders, all followers and `OPERATOR`."""

    def user(name: str, *, publish: list[str], subscribe: Iterable[str] = ()) -> dict[str, Any]:
        allowed = {"publish": publish, "subscribe": [f"_INBOX_{name}.>", *subscribe]}
        return {"nkey": public[name], "permissions": allowed}

    def answering(name: str, *, publish: list[str], subscribe: Iterable[str]) -> dict[str, Any]:
        made = user(name, publish=publish, subscribe=subscribe)
        made["permissions"]["allow_responses"] = _ANSWER
        return made

    def service(subject: str) -> dict[str, str]:
        return {"account": KEYS, "subject": subject}

    leading = [use.entry, use.info, use.leader_get, use.records_info, use.records_get, WHO]
    leading += [use.trail_get, f"{use.trail_get}.>"]
    imported = [f"{use.records}*", f"{use.trail}*", f"{use.trail_last}*"]

    def own(name: str) -> list[str]:
        return [use.records + name, use.trail + name]

    return {
        KEYS: {
            "jetstream": "enabled",
            "users": [
                user(OPERATOR, publish=["$JS.API.>"]),
                *(
                    answering(name, publish=[*leading, *own(name)], subscribe=[CHANGED, RECORDS_HEARD, WHO])
                    for name in leaders
                ),
            ],
            "exports": [
                {"service": use.direct_get, "accounts": [FLEET]},
                {"service": use.leader_get, "accounts": [FLEET]},
                *({"service": subject, "accounts": [FLEET]} for subject in imported),
                {"stream": CHANGED, "accounts": [FLEET]},
            ],
            "imports": [{"service": {"account": FLEET, "subject": WHO}}],
        },
        FLEET: {
            "users": [
                answering(
                    name,
                    publish=[use.direct_get, CURRENT, *own(name), use.trail_last + name],
                    subscribe=[CHANGED, WHO],
                )
                for name in followers
            ],
            "exports": [{"service": WHO, "accounts": [KEYS], "response_type": "stream"}],
            "imports": [
                {"service": service(use.direct_get)},
                {"service": service(use.leader_get), "to": CURRENT},  # answers 503 under its own name
                # Neither renamed nor exact: all else let records be overwritten.
                *({"service": service(subject)} for subject in imported),
                {"stream": service(CHANGED)},
            ],
        },
    }


def server_configuration(
    *,
    name: str,
    ports: Ports,
    routes: Iterable[int],
    store: Path,
    log: Path,
    accounts: Mapping[str, Any],
    sync_interval: str | None = None,
) -> str:
    """Return the configuration of one server of a cluster on 127.0.0.1.

    `routes` are the route ports of all its servers (a lone one is no cluster), `sync_interval` is nats-server's
    ("always": every write is synced; None: its default, two minutes).
    """
    jetstream: dict[str, Any] = {"store_dir": str(store), "max_mem": 64 << 20, "max_file_store": 1 << 30}
    if sync_interval is not None:
        jetstream["sync_interval"] = sync_interval
    configuration: dict[str, Any] = {
        "server_name": name,
        "listen": f"127.0.0.1:{ports.client}",
        "http": f"127.0.0.1:{ports.monitor}",
        "log_file": str(log),
        "jetstream": jetstream,
        "accounts": dict(accounts),
    }
    others = [port for port in routes if port != ports.route]
    if others:
        configuration["cluster"] = {
            "name": "keydist",
            "listen": f"127.0.0.1:{ports.route}",
            "routes": [f"nats://127.0.0.1:{port}" for port in others],
        }
    return json.dumps(configuration, indent=2)
