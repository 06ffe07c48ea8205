"""`keydist jwt sink`: a process that holds a fresh JWT in a file, for programs that only read files."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from keydist.adapters.clock import SystemClock
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.input_file import STDIN, read_input
from keydist.adapters.log import open_log
from keydist.adapters.public_file import mark_of, remove, write_private
from keydist.adapters.systemd import ServiceManager
from keydist.cli.command import ConfigOption, configured, finish, named
from keydist.cli.jwt_input import (
    AudOption,
    ClaimsOption,
    IssOption,
    LifetimeOption,
    SubOption,
    TypOption,
    Wish,
    wished,
)
from keydist.cli.operate import seconds_of
from keydist.core.jws import MAX_JWT
from keydist.core.own_jwt import OwnJwt, own_jwt
from keydist.errors import ConfigError, TrustError, UsageError
from keydist.services.sink import Signing, Sink, run_sink
from keydist.signing import Signer
from keydist.wiring import machine

if TYPE_CHECKING:
    from keydist.adapters.config import Config

T = TypeVar("T")
_RENEW_PARTS: Final = (14, 15)
"""The part of its lifetime after which a JWT is renewed: 14 of 15 minutes."""


def sink(
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="The file: 0600, replaced whole.")],
    sub: SubOption,
    aud: AudOption,
    *,
    iss: IssOption = None,
    lifetime: LifetimeOption = "15m",
    renew_at: Annotated[
        str | None,
        typer.Option("--renew-at", metavar="TIME", help="Renew it when it is so old; 14/15 of its lifetime otherwise."),
    ] = None,
    claims: ClaimsOption = None,
    typ: TypOption = "JWT",
    once: Annotated[bool, typer.Option("--once", help="Write one, and leave.")] = False,
    config: ConfigOption = None,
) -> None:
    """Hold a fresh JWT in a file: renewed ahead of its end, and when another key signs. SIGTERM ends it.

    While none can be minted the file stays until its JWT expires, and then goes: an expired one helps nobody.

    Example: keydist jwt sink --out /run/app/jwt --sub app --aud orders
    """

    def work() -> int:
        if named(out, "--out") == STDIN:
            raise UsageError("a JWT is held in a file", fix="to print one: keydist jwt mint")
        wish = wished(sub=sub, aud=aud, iss=iss, lifetime=lifetime, claims=claims, typ=typ)
        after = _renew_after(renew_at, wish.lifetime)
        left = _left_in(out)
        with Signer.open(config) as signer:
            if once:
                write_private(out, wish.minted(signer).text.encode("ascii"))
            else:
                asyncio.run(_hold(out, wish, signer, config=configured(config), left=left, renew_after=after))
        return 0

    finish(work, as_json=False)


def _renew_after(renew_at: str | None, lifetime: int) -> int:
    """Return at what age (seconds) a JWT is renewed. Raises `UsageError` where it would be too late, or at once."""
    if renew_at is None:
        part, whole = _RENEW_PARTS
        return max(1, lifetime * part // whole)
    after = int(seconds_of(renew_at, "--renew-at"))
    if not 0 < after < lifetime:
        raise UsageError("--renew-at is not within the lifetime", expected=f"1 to {lifetime - 1} s", found=f"{after} s")
    return after


def _left_in(path: str) -> OwnJwt | None:
    """Return the JWT that an earlier run left; None where there is no file, or an empty one.

    Raises `ConfigError` for a file that holds something else: it is somebody's, and would be lost.
    """
    if not Path(path).is_file():  # what else is there is refused when it is written
        return None
    raw = read_input(path, most=MAX_JWT + 1).removesuffix(b"\n")  # the line that `keydist jwt mint > FILE` makes
    try:
        return own_jwt(raw.decode("latin-1")) if raw else None
    except TrustError:
        raise ConfigError(
            f"{path} holds something else than a JWT, and is not overwritten",
            expected="no file, an empty one, or the JWT of an earlier run",
            fix="name another file, or remove this one",
        ) from None


async def _hold(out: str, wish: Wish, signer: Signer, *, config: Config, left: OwnJwt | None, renew_after: int) -> None:
    manager, stop, loop = ServiceManager(os.environ), asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        manager.stopping()
        stop.set()

    for told in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(told, end)
    who = SigningKey(config)

    def keep(jwt: str) -> object:
        write_private(out, jwt.encode("ascii"))
        return mark_of(out)

    # One thread, so that what is late never overtakes what comes after it.
    with ThreadPoolExecutor(max_workers=1) as aside:

        def off_loop(work: Callable[[], T]) -> Callable[[], Awaitable[T]]:
            return lambda: loop.run_in_executor(aside, work)

        await run_sink(
            Sink(
                mint=off_loop(lambda: wish.minted(signer)),
                signing=off_loop(who.now),
                keep=lambda jwt: loop.run_in_executor(aside, keep, jwt),
                there=off_loop(lambda: mark_of(out)),
                remove=off_loop(lambda: remove(out)),
                renew_after=renew_after,
                clock=SystemClock(),
                entropy=SystemEntropy(),
                journal=open_log(sys.stderr, os.environ, now=SystemClock().stamp),
                manager=manager,
            ),
            left,
            stop=stop,
        )


class SigningKey:
    """Which key signs on this node, read anew where the disk changed: two `stat` calls where it did not."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._disk = machine(config, os.environ).disk
        self._mark: object = None
        self._found = Signing(None)

    def now(self) -> Signing:
        """Return it. Raises the errors of `KeysetDisk.load`."""
        mark = self._disk.mark()  # before it is loaded: what changes in between is loaded next time
        if mark != self._mark:
            local = machine(self._config, os.environ).load()  # the tokens too: they may have been replaced
            kid = local.held.keyset.active.kid if local.held is not None else None
            revoked = local.floor.revoked if local.floor is not None else frozenset()
            self._found, self._mark = Signing(kid, revoked), mark
        return self._found
