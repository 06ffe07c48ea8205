"""What has happened when a runbook of docs/operations.md is opened, and what must be so once it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from integration.deb import as_release
from integration.hosts import DESK, SERVER_PROGRAM, SERVERS, Hosts

Act = Callable[[Hosts], None]
NEXT_RELEASE: Final = "99.0"
_HEALTHY: Final = "curl -s --fail --retry 60 --retry-all-errors --retry-delay 1 http://127.0.0.1:8222/healthz"
_INVALID: Final = 65
_MINT: Final = "keydist jwt mint --sub a --aud b --iss c >/tmp/jwt"
_VERIFY: Final = "keydist jwt verify --aud b --iss c --quiet /tmp/jwt"


def _a_jwt(hosts: Hosts) -> None:
    """Leave a JWT that eu-c minted on eu-d, which judges it."""
    hosts.do("eu-c", _MINT)
    hosts.do(DESK, "scp root@eu-c:/tmp/jwt root@eu-d:/tmp/jwt; ssh root@eu-d chown keydist: /tmp/jwt")
    hosts.do("eu-d", _VERIFY)


def _is_valid(hosts: Hosts) -> None:
    hosts.do("eu-d", _VERIFY)


def _thief_gets_nothing(hosts: Hosts) -> None:
    """Whoever has eu-c neither signs what is accepted, nor is let in."""
    for moment in ("from before", "from now"):
        code, said = hosts.type("eu-d", _VERIFY)
        assert code == _INVALID, f"a JWT {moment}: {code} {said}"
        if moment == "from before":
            hosts.do("eu-c", _MINT)
            hosts.do(DESK, "scp root@eu-c:/tmp/jwt root@eu-d:/tmp/jwt")
    _is_refused(hosts, "eu-c")


def _is_refused(hosts: Hosts, node: str) -> None:
    said = hosts.do(node, "keydist bootstrap")
    assert "alarm [credentials-refused]" in said, said


def _leader_dies(hosts: Hosts) -> None:
    hosts.machines["eu-a"].lose_power()


def _the_dead_leader_comes_back(hosts: Hosts) -> None:
    """It may not write, since its user is gone; then it is gone for good."""
    hosts.machines["eu-a"].switch_on()
    hosts.learn("eu-a")
    _is_refused(hosts, "eu-a")
    hosts.machines["eu-a"].switch_off()


def _on_servers(hosts: Hosts, command: str) -> None:
    for server in SERVERS:
        hosts.do(server, command, root=True)


def _put_stores(hosts: Hosts, command: str) -> None:
    """Stop all NATS servers, do something to what each stores, and start them."""
    for done in ("systemctl stop nats-server", command, "systemctl start nats-server", _HEALTHY):
        _on_servers(hosts, done)


def _store_is_lost(hosts: Hosts) -> None:
    _put_stores(hosts, "mv /var/lib/nats /var/lib/copy")  # the copy that is put back later


def _store_goes_back(hosts: Hosts) -> None:
    hosts.do("eu-d", "systemctl stop keydist; cp -a /var/lib/keydist /root/copy; systemctl start keydist", root=True)
    # A leader that put a keyset back, as in the runbook before, writes no other one for three heartbeats.
    hosts.do("eu-b", "until keydist policy set rotate_every=20d; do sleep 1; done")
    _put_stores(hosts, "rm -r /var/lib/nats; mv /var/lib/copy /var/lib/nats")


def _node_goes_back(hosts: Hosts) -> None:
    hosts.do("eu-d", "systemctl stop keydist; rm -r /var/lib/keydist; mv /root/copy /var/lib/keydist", root=True)


def _all_is_lost(hosts: Hosts) -> None:
    for node in ("eu-b", "eu-d"):
        hosts.do(node, "systemctl stop keydist; rm -r /var/lib/keydist /run/keydist", root=True)
    _put_stores(hosts, "rm -r /var/lib/nats")


def _new_releases(hosts: Hosts) -> None:
    new = hosts.home / "new"
    new.mkdir()
    [package] = hosts.home.glob("keydist_*.deb")
    as_release(package, NEXT_RELEASE, new)
    server = new / "nats-server"
    server.write_text(f"{SERVER_PROGRAM}# the next release\n", encoding="utf-8")
    server.chmod(0o755)


def _is_upgraded(hosts: Hosts) -> None:
    table = hosts.do("eu-b", "keydist status --fleet")
    assert table.count(f"  {NEXT_RELEASE}") == len(("eu-b", "eu-d")), table
    for server in SERVERS:
        assert "next release" in hosts.do(server, "cat /usr/local/bin/nats-server", root=True)


BEFORE: Final[Mapping[str, Act]] = {
    "Replacing the leader": _leader_dies,
    "Planned rotation": _a_jwt,
    "Lost store": _store_is_lost,
    "Restored backup: NATS": _store_goes_back,
    "Restored backup: a node": _node_goes_back,
    "Restored backup: all is lost": _all_is_lost,
    "Upgrade": _new_releases,
}
AFTER: Final[Mapping[str, Act]] = {
    "Replacing the leader": _the_dead_leader_comes_back,
    "Planned rotation": _is_valid,
    "Stolen node": _thief_gets_nothing,
    "Upgrade": _is_upgraded,
}
