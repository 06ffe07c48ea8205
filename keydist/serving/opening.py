"""From a node's configuration to everything that its agent serves."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from keydist.adapters.http.listener import Places, TcpAddress, UnixAddress
from keydist.adapters.mints import MintCounter, make_private
from keydist.errors import KeydistError, NotYetError
from keydist.services.facts import Who, node_facts
from keydist.serving.local import Local
from keydist.serving.policy import MintPolicy
from keydist.serving.public import Public
from keydist.serving.published import Published
from keydist.serving.servers import Served, Servers
from keydist.serving.signer import PeerSigner
from keydist.signing import Verifier
from keydist.signing.opening import trail_of
from keydist.wiring import group_id

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping

    from keydist.adapters.config import Config
    from keydist.core.report import Report
    from keydist.ports import Entropy, Journal
    from keydist.services.insight import Insight
    from keydist.wiring import Machine


class Serving:
    """What one agent serves: its servers, and the signer that they share."""

    def __init__(self, servers: Servers, signer: PeerSigner) -> None:
        self._servers = servers
        self._signer = signer

    def alarms(self) -> tuple[KeydistError, ...]:
        """Return why what should be served is not."""
        return self._servers.alarms()

    async def run(self) -> NoReturn:
        """Serve until cancelled; what was minted is counted then."""
        try:
            await self._servers.run()
        finally:
            self._signer.close()


def check_serving(config: Config) -> None:
    """Refuse a configuration that names whom this machine does not know. Raises `ConfigError`."""
    _mint_policy(config)
    _socket(config)


def _mint_policy(config: Config) -> MintPolicy:
    return MintPolicy(config.socket.allow, own_uid=os.geteuid(), issuer=config.issuer)


def open_serving(
    node: Machine,
    *,
    insight: Insight,
    entropy: Entropy,
    log: Journal,
    report: Callable[[], Report | None],
    disbelieved: Counter[str],
    places: Places,
) -> Serving:
    """Return what the agent of a node serves; nothing listens yet. Raises `ConfigError`.

    `report` tells how the node stands; `disbelieved` counts the JWTs that were not believed at the socket, by reason;
    `places` keeps its sockets over a reload.
    """
    config, disk, clock = node.config, node.disk, node.clock
    signer = PeerSigner(
        disk,
        clock,
        node.tokens,
        issuer=config.issuer,
        mints=MintCounter(config.runtime_dir, clock),
        trail=trail_of(node),
        demands=node.demands,
    )
    local = Local(
        signer=signer,
        verifier=Verifier(disk, clock, node.tokens, demands=node.demands),
        policy=_mint_policy(config),
        insight=insight,
        status=lambda: _status(node, insight, report()),
        disbelieved=disbelieved,
        clock=clock,
    )
    published = Published(disk, clock, node.tokens, node.demands, entropy=entropy, issuer=config.issuer)
    public = Public(published=published, keys=disk, report=report)
    served = [Served("socket", _socket(config), local.app(log))]
    if config.http.listen is not None:
        app = public.app(log, with_metrics=config.metrics.listen is None)
        served.append(Served("http", _tcp(config, config.http.listen), app))
    if config.metrics.listen is not None:
        served.append(Served("metrics", _tcp(config, config.metrics.listen), public.metrics_app(log)))

    def prepare() -> None:
        with suppress(KeydistError):  # what cannot be made cannot be listened in: that is told
            make_private(config.runtime_dir)

    return Serving(Servers(tuple(served), clock=clock, log=log, prepare=prepare, places=places), signer)


def _status(node: Machine, insight: Insight, report: Report | None) -> Mapping[str, object]:
    present, config = insight.present, node.config
    if present is None:
        raise NotYetError("the agent has only just started", expected="an agent that runs", fix="try again")
    who = Who(node=config.node, role=config.role, cluster=config.cluster)
    facts = node_facts(
        who, present.local, present.notes(), found=present.found, alarms=present.alarms, now=node.clock.now()
    )
    if report is not None:
        facts["agent"] = {"version": report.version, "started": report.started, "looked": report.looked}
    return facts


def _socket(config: Config) -> UnixAddress:
    place = config.socket
    gid = None if place.group is None else group_id(place.group, "socket.group")
    return UnixAddress(place.path, place.mode, gid)


def _tcp(config: Config, listen: str) -> TcpAddress:
    host, _, port = listen.rpartition(":")
    tls = config.http.tls
    return TcpAddress(host.strip("[]"), int(port), *(tls or ()))
