"""A complete nats-server configuration for a keydist cluster: JetStream, TLS, routes, accounts. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.adapters.nats.accounts import KEYS
from keydist.adapters.nats.server_text import Because, Include, render

if TYPE_CHECKING:
    from collections.abc import Mapping

SYNCED: Final = "always"
_MEMORY: Final = 64 << 20
_DISK: Final = 1 << 30
_HANDSHAKE_SECONDS: Final = 30
_PING_SECONDS: Final = 2
_LINK_PING_SECONDS: Final = 5
_UNANSWERED: Final = 2

_HEAD: Final = """\
# nats-server for keydist, written by: keydist store config
# The same on every server but for its name and its routes. After a change of users: nats-server --signal reload;
# of anything else: restart the servers, one after the other.
"""


class ServerFiles(NamedTuple):
    """Where a server finds its certificates. `client_ca` None: clients show none. Servers always show theirs."""

    cert_file: str
    key_file: str
    client_ca: str | None
    route_ca: str


class Home(NamedTuple):
    """Where a region's servers link to (host:port), the region's name, and the file that says who they are there."""

    region: str
    links: tuple[str, ...]
    link_file: str = "link.conf"


class ServerPlace(NamedTuple):
    """One server: its name, where it listens (host:port), its peers' routes (host:port) and where it keeps things.

    `leaf_listen`: where it takes regions' links. `home`: it is a region's, and links to there.
    """

    name: str
    store_dir: str
    listen: str
    route_listen: str
    monitor: str
    routes: tuple[str, ...] = ()
    log_file: str | None = None
    leaf_listen: str | None = None
    home: Home | None = None


def server_configuration(
    place: ServerPlace,
    accounts: Mapping[str, Any],
    *,
    cluster: str,
    tls: ServerFiles | None,
    sync_interval: str | None = SYNCED,
) -> str:
    """Return the text of one server's configuration. Raises `ConfigError` for what cannot stand in one.

    `tls` None is plain text, and `sync_interval` None nats-server's own (two minutes): neither is for production.
    """
    configuration: dict[str, Any] = {
        "server_name": place.name,
        "listen": place.listen,
        "http": Because(place.monitor, "health checks; anybody who reaches it reads names and addresses"),
    }
    if place.log_file is not None:
        configuration["log_file"] = place.log_file
    configuration["jetstream"] = _jetstream(place, sync_interval)
    if tls is not None:
        configuration["tls"] = _client_tls(tls)
    if place.routes:
        configuration["cluster"] = _cluster(place, cluster, tls)
    if place.leaf_listen is not None or place.home is not None:
        configuration["leafnodes"] = _leafnodes(place, tls)
    if place.home is not None:
        why = "a link that is cut off in silence is given up within 15 s, not minutes; clients are asked as often"
        configuration["ping_interval"] = Because(f"{_LINK_PING_SECONDS}s", why)
        configuration["ping_max"] = _UNANSWERED
    configuration["accounts"] = accounts
    return f"{_HEAD}\n{render(configuration)}"


def _jetstream(place: ServerPlace, sync_interval: str | None) -> dict[str, Any]:
    jetstream: dict[str, Any] = {
        "store_dir": place.store_dir,
        "max_memory_store": _MEMORY,
        "max_file_store": Because(
            _DISK, "keyset and records stay small; the audit trail's stream has a limit of 512 MiB"
        ),
    }
    if place.home is not None:
        jetstream["domain"] = Because(place.home.region, "a JetStream of its own, beside that at home")
    if sync_interval is not None:
        why = "each write is on disk before it is acknowledged; by default a power failure loses two minutes"
        jetstream["sync_interval"] = Because(sync_interval, why)
    return jetstream


def _client_tls(tls: ServerFiles) -> Because:
    files: dict[str, Any] = {"cert_file": tls.cert_file, "key_file": tls.key_file}
    if tls.client_ca is not None:
        files["ca_file"] = Because(tls.client_ca, "the CA of the clients' certificates")
        files["verify"] = Because(True, "a client without such a certificate is not talked to")  # noqa: FBT003 - a value
    files["handshake_first"] = Because(True, "TLS before anything else: no greeting in clear, and no way down")  # noqa: FBT003
    files["timeout"] = Because(
        _HANDSHAKE_SECONDS, "a fleet that starts at once takes longer than the usual two seconds"
    )
    return Because(files, "Who connects is a user by its nkey all the same: a certificate alone may nothing.")


def _cluster(place: ServerPlace, name: str, tls: ServerFiles | None) -> dict[str, Any]:
    scheme = "nats" if tls is None else "tls"
    cluster: dict[str, Any] = {
        "name": name,
        "listen": place.route_listen,
        "routes": [f"{scheme}://{route}" for route in place.routes],
        "no_advertise": Because(True, "keydist dials the servers that it was given, and no others"),  # noqa: FBT003
        "ping_interval": Because(
            f"{_PING_SECONDS}s", "a cut-off peer is given up within 6 s, not minutes: until then it is sent direct gets"
        ),
        "ping_max": _UNANSWERED,
    }
    if tls is not None:
        cluster["tls"] = Because(
            {
                "cert_file": tls.cert_file,
                "key_file": tls.key_file,
                "ca_file": tls.route_ca,
                "verify": True,
            },
            "A peer is trusted with every account: its CA must sign servers only. With the clients' CA here, a stolen\n"
            "follower's certificate would be enough to join as a server, and write anything.",
        )
    return cluster


def _leafnodes(place: ServerPlace, tls: ServerFiles | None) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if tls is not None:
        files = {"cert_file": tls.cert_file, "key_file": tls.key_file, "ca_file": tls.route_ca}
        taken = {"verify": True, "timeout": _HANDSHAKE_SECONDS} if place.home is None else {}
        shown["tls"] = files | {"handshake_first": True} | taken
    if place.home is None:
        why = "a region's servers show a certificate of the servers' CA, and are a user by their nkey all the same"
        return {"listen": Because(place.leaf_listen, why), "no_advertise": True, **shown}
    scheme = "nats-leaf" if tls is None else "tls"
    remote = {
        "urls": [f"{scheme}://{link}" for link in place.home.links],
        "account": KEYS,
        "nkey": Include(place.home.link_file),
        **shown,
    }
    return {"remotes": Because([remote], f"{place.home.link_file}, beside this file, holds the nkey's seed, a secret")}
