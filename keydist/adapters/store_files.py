"""The files that `keydist store config` writes: a folder for each server and each user, with what that machine needs.

A server's folder holds its configuration. A user's folder holds its seed, where keydist is to make it. For trying out
there are certificates too, and a keydist.yaml that names all of it. What is there already is taken up, not made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from keydist.adapters.dev_pki import Pair, authority, issue
from keydist.adapters.file_set import Wanted
from keydist.adapters.nats.accounts import User, Users, accounts, check_name, region_accounts
from keydist.adapters.nats.credentials import new_seed, public_nkey
from keydist.adapters.nats.permissions import subjects
from keydist.adapters.nats.server_config import Home, ServerFiles, ServerPlace, server_configuration
from keydist.adapters.nats.server_text import render
from keydist.errors import ConfigError, UsageError

CONFIGURATION: Final = "nats-server.conf"
SEED: Final = "user.nk"
LINK: Final = "link.conf"
SERVER_CA: Final = "server-ca.pem"
CLIENT_CA: Final = "client-ca.pem"
_CA_FOLDER: Final = "ca"
_NOT_NAMES: Final = (_CA_FOLDER, "README", "token")
_FIRST_HTTP_PORT: Final = 7447
_LET_IN: Final = re.compile(r"# ([A-Za-z0-9_-]{1,64})[^\n]*\n *\{\n *nkey: \"(U[A-Z2-7]{55})\"", re.ASCII)
_NOTE: Final = """\
Written by: keydist store config --dev-pki

For development. The keys of both CAs lie in ca/, beside everything that they sign: whoever reads this folder is
every node and every server. In production let your own CA sign, one for the servers and another for the clients,
and write the servers' configuration with: keydist store config --out DIR
"""

Read = Callable[[str, bool], bytes | None]
"""Returns what a file of the directory holds, by its path and whether it is a secret."""


class Server(NamedTuple):
    """A server: its name, by which the others reach it, and the host and port at which clients do."""

    name: str
    host: str
    port: int

    @property
    def address(self) -> str:
        """The host as it stands before a port: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host


class Named(NamedTuple):
    """A user as it was named: with its public nkey, or without where its seed tells it."""

    name: str
    nkey: str | None


class Layout(NamedTuple):
    """What is asked for; in addresses and the servers' directories `{name}` and `{host}` stand for a server's own.

    `links` are the regions that home takes, at `leaf`. With `region` the servers and followers are a region's: `home`
    is where it links to, and leaders only ask it for the living.
    """

    cluster: str
    bucket: str
    entry: str
    servers: tuple[Server, ...]
    operator: Named
    leaders: tuple[Named, ...]
    followers: tuple[Named, ...]
    listen: str
    routes: str
    monitor: str
    files_dir: str
    store_dir: str
    client_certificates: bool
    links: tuple[Named, ...] = ()
    leaf: str = ""
    region: str | None = None
    home: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[Named, ...]:
        """Who connects to these servers as a client, the operator first."""
        return (self.operator, *(self.leaders if self.region is None else ()), *self.followers)

    @property
    def named(self) -> tuple[Named, ...]:
        """All users of these servers, the operator first."""
        return (*self.nodes, *self.links)


def configurations(layout: Layout, users: Users) -> dict[str, str]:
    """Return the configuration of each server, by its name. Raises `ConfigError`."""
    use = subjects(layout.bucket, layout.entry)
    asking = tuple(named.name for named in (*layout.leaders, layout.operator))
    made = accounts(users, use) if layout.region is None else region_accounts(users, use, asking)
    route_port = layout.routes.rpartition(":")[2]
    # Servers refuse a link between two clusters of one name.
    cluster = layout.cluster if layout.region is None else f"{layout.cluster}-{layout.region}"

    def text(server: Server) -> str:
        def filled(pattern: str) -> str:
            return pattern.replace("{name}", server.name).replace("{host}", server.address)

        place = ServerPlace(
            name=server.name,
            store_dir=filled(layout.store_dir),
            listen=filled(layout.listen),
            route_listen=filled(layout.routes),
            monitor=filled(layout.monitor),
            routes=tuple(f"{peer.name}:{route_port}" for peer in layout.servers if peer != server),
            leaf_listen=filled(layout.leaf) if layout.links else None,
            home=Home(layout.region, layout.home, LINK) if layout.region is not None else None,
        )
        files = filled(layout.files_dir)
        tls = ServerFiles(
            cert_file=f"{files}/server.pem",
            key_file=f"{files}/server.key",
            client_ca=f"{files}/{CLIENT_CA}" if layout.client_certificates else None,
            route_ca=f"{files}/{SERVER_CA}",
        )
        return server_configuration(place, made, cluster=cluster, tls=tls)

    return {server.name: text(server) for server in layout.servers}


def users_of(layout: Layout, seeds: Mapping[str, str]) -> Users:
    """Return all users with their public nkeys, named or told by their seeds. Raises `ConfigError`, `UsageError`."""
    if not layout.leaders:
        raise UsageError("no leader is named: nobody could write the keyset", fix="name one: --leader NAME[=NKEY]")

    def user(named: Named) -> User:
        seed = seeds.get(named.name)
        held = nkey_of(f"{named.name}/{SEED}", seed) if seed is not None else None
        nkey = named.nkey or held
        if nkey is None:
            raise UsageError(
                f"no nkey of {named.name} is known",
                expected="its public nkey, or a seed",
                found="neither",
                fix=f"name it: {named.name}=U…; or let seeds be made: --out DIR --seeds",
            )
        if held is not None and held != nkey:
            raise ConfigError(
                f"the nkey of {named.name} is another than that of its seed",
                expected=held,
                found=nkey,
                fix=f"leave the nkey out, or remove {named.name}/{SEED}",
            )
        return User(named.name, nkey)

    first, *others = map(user, layout.named)
    known = {one.name: one for one in (first, *others)}

    def held_by(some: tuple[Named, ...]) -> tuple[User, ...]:
        return tuple(known[named.name] for named in some if named.name in known)

    return Users(first, held_by(layout.leaders), held_by(layout.followers), held_by(layout.links))


def seeds_of(layout: Layout, read: Read, random: Callable[[int], bytes] | None) -> dict[str, str]:
    """Return the seeds that are there, by name; with `random` also new ones for who has neither seed nor nkey."""
    seeds: dict[str, str] = {}
    for named in layout.named:
        found = read(f"{check_name(named.name)}/{SEED}", True)  # noqa: FBT003 - the only two there are
        if found is not None:
            seeds[named.name] = found.decode("ascii", "replace")
        elif random is not None and named.nkey is None:
            seeds[named.name] = new_seed(random)
    return seeds


def wanted_files(layout: Layout, seeds: Mapping[str, str], link: bytes | None = None) -> list[Wanted]:
    """Return each server's configuration, and the seeds before them. Raises `ConfigError`, `UsageError`.

    `link` is the seed of a region's link, where it is there.
    """
    _check_folders(layout)
    texts = configurations(layout, users_of(layout, seeds))
    secret = b""
    if link is not None:
        seed = link.decode("ascii", "replace").strip()
        nkey_of(f"{layout.region}/{SEED}", seed)
        secret = render({"nkey": seed}).encode()
    return [
        *(Wanted(f"{name}/{SEED}", seed.encode("ascii", "replace"), is_secret=True) for name, seed in seeds.items()),
        *(Wanted(f"{name}/{LINK}", secret, is_secret=True) for name in texts if secret),
        *(Wanted(f"{name}/{CONFIGURATION}", text.encode("utf-8")) for name, text in texts.items()),
    ]


def removed_users(wanted: list[Wanted], read: Read) -> list[str]:
    """Return who is let in by the configurations that are there and is not by these, by name."""
    removed: set[str] = set()
    for file in wanted:
        if file.path.endswith(f"/{CONFIGURATION}"):
            there = read(file.path, False) or b""  # noqa: FBT003 - as above
            nkeys = {nkey for _, nkey in _LET_IN.findall(file.data.decode("utf-8"))}
            removed |= {name for name, nkey in _LET_IN.findall(there.decode("utf-8", "replace")) if nkey not in nkeys}
    return sorted(removed)


def dev_files(layout: Layout, read: Read, now: int) -> list[Wanted]:
    """Return CAs, certificates with their keys and a keydist.yaml for each user. `now` in unix seconds."""

    def there(name: str) -> dict[str, bytes | None]:
        return {"key": read(f"{name}.key", True), "certificate": read(f"{name}.pem", False)}  # noqa: FBT003

    cas = {
        kind: authority(f"{layout.cluster} {kind} CA (development)", **there(f"{_CA_FOLDER}/{kind}-ca"), now=now)
        for kind in ("server", "client")
    }
    wanted = [Wanted("README", _NOTE.encode("ascii"))]
    for kind, ca in cas.items():
        wanted += _pair(f"{_CA_FOLDER}/{kind}-ca", ca)
    for server in layout.servers:
        hosts = tuple(dict.fromkeys((server.name, server.host, "localhost", "127.0.0.1", "::1")))
        made = issue(cas["server"], server.name, hosts=hosts, **there(f"{server.name}/server"), now=now)
        wanted += _pair(f"{server.name}/server", made)
        wanted += [Wanted(f"{server.name}/{kind}-ca.pem", ca.certificate) for kind, ca in cas.items()]
    for number, named in enumerate(layout.nodes):
        if layout.client_certificates:
            made = issue(cas["client"], named.name, hosts=(), **there(f"{named.name}/client"), now=now)
            wanted += _pair(f"{named.name}/client", made)
        wanted.append(Wanted(f"{named.name}/{SERVER_CA}", cas["server"].certificate))
        wanted.append(Wanted(f"{named.name}/keydist.yaml", _node(layout, named, number).encode("utf-8")))
    return wanted


def _check_folders(layout: Layout) -> None:
    """Refuse two folders of one name. Raises `ConfigError`."""
    names = [*(server.name for server in layout.servers), *(named.name for named in layout.named), *_NOT_NAMES]
    if layout.region is not None:  # where the seed of its link is
        names.append(layout.region)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "servers and users do not have names of their own",
            expected=f"another name for each, and none of: {', '.join(_NOT_NAMES)}",
            found=", ".join(twice),
            fix="rename one of them",
        )


def nkey_of(where: str, seed: str) -> str:
    """Return the public nkey of the seed that a file holds. Raises `ConfigError`, and shows nothing of it."""
    try:
        return public_nkey(seed)
    except Exception:  # noqa: BLE001 - from binascii.Error to IndexError; and nothing of the seed may be shown
        raise ConfigError(
            f"{where} is no seed of a user",
            expected="an NKEY seed",
            found="text that is not shown",
            fix="remove it, and let a new one be made",
        ) from None


def _pair(name: str, pair: Pair) -> list[Wanted]:
    return [Wanted(f"{name}.key", pair.key, is_secret=True), Wanted(f"{name}.pem", pair.certificate)]


def _node(layout: Layout, named: Named, number: int) -> str:
    """Return a user's keydist.yaml; its paths are relative to where it stands."""
    role = "leader" if named in layout.leaders else "follower"
    tls = {"ca_file": SERVER_CA}
    if layout.client_certificates:
        tls |= {"cert_file": "client.pem", "key_file": "client.key"}
    nats: dict[str, Any] = {
        "servers": [f"tls://{server.address}:{server.port}" for server in layout.servers],
        "bucket": layout.bucket,
        "entry": layout.entry,
        "nkey_file": SEED,
        "tls": tls,
    }
    settings: dict[str, Any] = {"cluster": layout.cluster, "node": named.name, "role": role, "token_file": "../token"}
    settings |= {"state_dir": "state", "runtime_dir": "run"}
    is_operator = named is layout.operator
    http = {"listen": None if is_operator else f"127.0.0.1:{_FIRST_HTTP_PORT + number - 1}"}
    about = "the operator, for: keydist store init, node forget" if is_operator else f"node {named.name}"
    lines = [f"# {about}; written by: keydist store config --dev-pki, for development"]
    lines += [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
    lines += ["nats:", *(f"  {name}: {json.dumps(value)}" for name, value in nats.items())]
    return "\n".join([*lines, f"http: {json.dumps(http)}", ""])
