"""`keydist key rotate`, `revoke` and `extend`: what changes keys, one epoch each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keydist.cli.command import ConfigOption, DryRunOption, JsonOption, KidCommand, TokenOption, ask, finish, this_node
from keydist.cli.keys import app
from keydist.cli.operate import (
    PATIENCE,
    TimeoutOption,
    WaitOption,
    WithoutOption,
    operate,
    seconds_of,
    tell_lacking,
    wait_for_all,
)
from keydist.cli.render import print_json, print_line, tell, tell_alarms
from keydist.cli.times import date, parse_time
from keydist.core.crypto import RSA_ALGS, SIGNING_ALGS
from keydist.core.jwk import bits_of
from keydist.errors import UsageError
from keydist.services.change import extend
from keydist.services.revoke import plan as plan_revocation
from keydist.services.revoke import revoke
from keydist.services.rotate import plan as plan_rotation
from keydist.services.rotate import rotate

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.services import revoke as revocation
    from keydist.services import rotate as rotation
    from keydist.services.command import Command
    from keydist.services.rotate import Kind

__all__ = ["app"]
_BITS = 3072


@app.command("rotate")
def rotate_command(
    *,
    alg: Annotated[str | None, typer.Option("--alg", help="Another algorithm: RS256, PS256, ES256, EdDSA.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", min=2048, max=4096, help="Another size of RSA key.")] = None,
    wait: WaitOption = False,
    without: WithoutOption = None,
    timeout: TimeoutOption = PATIENCE,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the next key sign: planned, gated by the wait and by every live node's acknowledgement, noticed by nobody.

    Another algorithm or size takes two epochs: the next key is replaced now, and signs once everybody has it.

    Example: keydist key rotate --wait
    """

    def work() -> int:
        seconds, node = seconds_of(timeout, "--timeout"), this_node(config, token_file)
        local, left_out = node.load(), frozenset(without or ())

        async def run(command: Command) -> int:
            kind = _kind(local.held, alg, bits)
            if dry_run:
                _show_plan(await plan_rotation(command, local, kind=kind, without=left_out), as_json=as_json)
                return 0
            done = await rotate(command, local, kind=kind, without=left_out, seconds=seconds)
            lacking = await wait_for_all(command, done.done.held, wanted=wait, seconds=seconds)
            _show_rotated(done, lacking, as_json=as_json)
            return tell_lacking(lacking, done.done.held) if wait else 0

        return operate(node, run)

    finish(work, as_json=as_json)


def _kind(held: Held | None, alg: str | None, bits: int | None) -> Kind | None:
    """Return the algorithm and size that are asked for, or None. Raises `UsageError`."""
    if alg is None and bits is None:
        return None
    active = held.keyset.active if held else None
    wanted = alg or (active.alg if active else "RS256")
    if wanted not in SIGNING_ALGS:
        raise UsageError(f"--alg {wanted[:32]!a} is not known", expected=", ".join(sorted(SIGNING_ALGS)))
    if wanted not in RSA_ALGS:
        if bits is not None:
            raise UsageError(f"{wanted} has one size of key", fix="leave out --bits")
        return wanted, 0
    if bits is not None and bits % 8:
        raise UsageError("--bits is a multiple of 8", expected="2048, 3072 or 4096", found=str(bits))
    return wanted, bits or (bits_of(active) if active else 0) or _BITS


def _show_plan(found: rotation.Plan, *, as_json: bool) -> None:
    active, keyset = found.held.keyset.active, found.held.keyset
    following = next((key for key in keyset.signing_keys() if key.state.value == "next"), None)
    if as_json:
        print_json(
            {
                "epoch": keyset.epoch + 1,
                "kid": following.kid if following and not found.replaces_next else None,
                "previous_kid": active.kid,
                "alg": found.kind[0],
                "bits": found.kind[1] or None,
                "epochs": 2 if found.replaces_next else 1,
                "opens": found.opens,
                "lacking": list(found.lacking),
                "room_at": found.room_at,
                "drop": list(found.drop),
                "drops_at": found.drops_at,
                "changed": False,
            }
        )
        return
    kind = f"{found.kind[0]} {found.kind[1]}" if found.kind[1] else found.kind[0]
    if found.replaces_next:
        print_line(f"epoch {keyset.epoch + 1}: the next key goes, a new one ({kind}) is published as next")
        print_line(f"a propagation ({keyset.policy.propagation} s) and all acknowledgements later: it signs")
        print_line("  keydist key rotate again then, or a leader's agent does it by itself")
        return
    print_line(f"epoch {keyset.epoch + 1}: {following.kid if following else 'next'} signs, {active.kid} only verifies")
    print_line(f"  not before      {date(found.opens)}")
    print_line(f"  waits for       {', '.join(found.lacking) or 'nobody: every live node has acknowledged'}")
    if found.room_at is not None:
        print_line(f"  no room before  {date(found.room_at)}: too many retired keys")
    for kid in found.drop:
        print_line(f"  leaves          {kid}")
    print_line(f"a new key ({kind}) is published as next")
    print_line(f"{active.kid} may leave the keyset from {date(found.drops_at)}")


def _show_rotated(done: rotation.Rotated, lacking: tuple[str, ...], *, as_json: bool) -> None:
    keyset, found = done.done.held.keyset, done.plan
    tell_alarms(done.done.alarms)
    if as_json:
        facts = {"epoch": keyset.epoch, "kid": keyset.active.kid, "previous_kid": done.previous_kid}
        print_json(facts | {"lacking": list(lacking), "complete": not found.replaces_next, "changed": True})
    elif found.replaces_next:
        print_line(f"epoch {keyset.epoch}: the new key is published as next; {keyset.active.kid} still signs")
        tell(f"keydist: once every node has it, in {keyset.policy.propagation} s: keydist key rotate")
    else:
        print_line(f"epoch {keyset.epoch}: {keyset.active.kid} signs, {done.previous_kid} only verifies")


@app.command("revoke", cls=KidCommand)
def revoke_command(
    *,
    kid: Annotated[str | None, typer.Argument(metavar="[KID]", help="A key id; none with --all.")] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why: at most 64 characters, kept in the keyset.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every key of this cluster.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = PATIENCE,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop accepting a key, everywhere, at once: an emergency. See first what breaks: --dry-run.

    Example: keydist key revoke KID --reason "laptop stolen" --wait
    """

    def work() -> int:
        if (kid is None) is not every:
            raise UsageError("name one key, or all", expected="KID or --all", fix="see: keydist key list")
        if reason is None and not dry_run:
            raise UsageError("a revocation says why", expected="--reason TEXT")
        seconds, node = seconds_of(timeout, "--timeout"), this_node(config, token_file)
        local = node.load()

        async def run(command: Command) -> int:
            current, found = await plan_revocation(command, local, kids=None if kid is None else frozenset({kid}))
            _tell_broken(found)
            if dry_run:
                _show_broken(found, as_json=as_json)
                return 0
            if not yes and _is_terminal() and not ask(f"Revoke {len(found.kids)} key(s)? It cannot be taken back."):
                tell("keydist: nothing was revoked")
                return 1
            done = await revoke(command, current, found, reason=reason or "")
            keyset = done.held.keyset
            lacking = await wait_for_all(command, done.held, wanted=wait, seconds=seconds)
            tell_alarms(done.alarms)
            if as_json:
                facts = {"epoch": keyset.epoch, "kid": keyset.active.kid, "revoked": list(found.kids)}
                print_json(facts | {"lacking": list(lacking), "changed": True})
            else:
                print_line(f"epoch {keyset.epoch}: revoked {', '.join(found.kids)}; {keyset.active.kid} signs")
            return tell_lacking(lacking, done.held) if wait else 0

        return operate(node, run)

    finish(work, as_json=as_json)


def _is_terminal() -> bool:
    import sys  # noqa: PLC0415 - nowhere else

    return sys.stdin.isatty()


def _tell_broken(found: revocation.Plan) -> None:
    if found.token_may_be_known:
        tell(
            f"keydist: warning: token {found.held.token_id} was not replaced since these keys were made: whoever has it"
        )
        tell("  opens the new keys too. In this order: new token everywhere, keydist token rotate, then revoke --all")
    if found.blind is not None:
        tell(f"keydist: warning: the fleet cannot be seen, so what breaks is not known: {found.blind}")


def _show_broken(found: revocation.Plan, *, as_json: bool) -> None:
    if as_json:
        broken = [
            {"kid": key.kid, "state": key.state.value, "jwts": key.jwts, "last_expiry": key.last_expiry or None}
            for key in found.broken
        ]
        facts = {"epoch": found.held.keyset.epoch + 1, "revoked": list(found.kids), "broken": broken}
        more = {"kid": found.successor, "lacking": list(found.lacking), "changed": False}
        print_json(facts | more | {"token_replaced": not found.token_may_be_known})
        return
    for key in found.broken:
        print_line(f"{key.kid}  {key.state.value}")
        if key.jwts:
            print_line(f"  {key.jwts} JWTs were minted with it; the last one would live until {date(key.last_expiry)}")
        else:
            print_line("  no node says that it minted a JWT with it")
    print_line(f"then signs: {found.successor or 'a new key, which nobody has seen yet'}")
    if found.lacking:
        print_line(f"cannot verify that yet, and refuse JWTs until they follow: {', '.join(found.lacking)}")


@app.command("extend", cls=KidCommand)
def extend_command(
    kid: Annotated[str, typer.Argument(metavar="KID", help="A key id, as keydist key list prints it.")],
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="RFC 3339, unix seconds, or +30d from now; never earlier.")
    ],
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a key verifying until a time, for JWTs that live longer than the policy lets them.

    Example: keydist key extend KID --until 2027-06-30T00:00:00Z
    """

    def work() -> int:
        node = this_node(config, token_file)
        at, local = parse_time(until, now=node.clock.now()), node.load()
        done = operate(node, lambda command: extend(command, local, kid=kid, until=at))
        held = done.held if done else node.load().held
        epoch = held.keyset.epoch if held else 0
        if done is not None:
            tell_alarms(done.alarms)
        if as_json:
            print_json({"epoch": epoch, "kid": kid, "verify_until": at, "changed": done is not None})
        else:
            print_line(f"epoch {epoch}: {kid} verifies until {date(at)} at least")
        return 0

    finish(work, as_json=as_json)
