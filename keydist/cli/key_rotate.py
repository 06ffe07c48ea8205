"""`keydist key rotate`: a planned rotation, its plan, and what it left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keydist.cli.command import ConfigOption, DryRunOption, JsonOption, TokenOption, finish, this_node
from keydist.cli.keys import app
from keydist.cli.operate import (
    PATIENCE,
    TimeoutOption,
    WaitOption,
    WithoutOption,
    alarms_json,
    operate,
    seconds_of,
    tell_acknowledged,
    tell_behind,
    tell_unreadable,
)
from keydist.cli.render import print_json, print_line, tell, tell_alarms
from keydist.cli.times import date, span
from keydist.core.crypto import RSA_ALGS, SIGNING_ALGS
from keydist.errors import KeydistError, UsageError
from keydist.services.rotate import Wish, carry_through, plan, rotate
from keydist.services.waiting import Acknowledgement, acknowledged

if TYPE_CHECKING:
    from keydist.services.command import Command
    from keydist.services.rotate import Plan, Rotated

__all__ = ["app"]


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

    Another algorithm or size takes two epochs: the next key is replaced now, and signs once everybody has it; with
    --wait and a --timeout that allows it, this command does both.

    Example: keydist key rotate --wait
    """

    def work() -> int:
        seconds, wish = seconds_of(timeout, "--timeout"), _wish(alg, bits, without)
        node = this_node(config, token_file)
        local = node.load()

        async def run(command: Command) -> int:
            if dry_run:
                _show_plan(await plan(command, local, wish), as_json=as_json)
                return 0
            done, late = await rotate(command, local, wish, seconds=seconds), None
            _tell_risks(done.plan)
            if wait and not done.complete:
                tell(f"keydist: epoch {done.done.held.keyset.epoch}: the new key is published as next; it signs next")
                done, late = await _second(command, done, wish, seconds)
            held = done.done.held
            found = Acknowledgement()
            if wait:
                found = await acknowledged(command, held, without=wish.without, seconds=seconds)
            _show_rotated(done, found, late, as_json=as_json)
            code = tell_acknowledged(found, f"epoch {held.keyset.epoch}") if wait else 0
            return late.exit_code if late else code

        return operate(node, run)

    finish(work, as_json=as_json)


async def _second(command: Command, first: Rotated, wish: Wish, seconds: float) -> tuple[Rotated, KeydistError | None]:
    """Carry a change of algorithm through; return what there is, and what kept the second epoch from being written."""
    try:
        return await carry_through(command, first, wish, seconds=seconds), None
    except KeydistError as exc:  # the first epoch is written, and must be told
        return first, exc


def _wish(alg: str | None, bits: int | None, without: list[str] | None) -> Wish:
    """Return the kind of key that is asked for, and who is not waited for. Raises `UsageError`."""
    if alg is not None and alg not in SIGNING_ALGS:
        known = ", ".join(sorted(SIGNING_ALGS))
        raise UsageError(f"--alg {alg[:32]!a} is not known", expected=known, fix="name one of these")
    if alg is not None and alg not in RSA_ALGS and bits is not None:
        raise UsageError(f"{alg} has one size of key", expected="no --bits", found=str(bits), fix="leave out --bits")
    if bits is not None and bits % 8:
        raise UsageError("--bits is a multiple of 8", expected="2048, 3072 or 4096", found=str(bits), fix="name one")
    return Wish(alg=alg, bits=bits, without=frozenset(without or ()))


def _tell_risks(found: Plan) -> None:
    if found.left_out:
        tell(
            f"keydist: warning: not waited for: {', '.join(found.left_out)}; until they follow they refuse JWTs of the"
            " new key, and so does who takes the JWK Set from them"
        )
    tell_unreadable(found.unreadable)


def _show_plan(found: Plan, *, as_json: bool) -> None:
    keyset = found.held.keyset
    tell_behind(found.behind, found.held)
    _tell_risks(found)
    if as_json:
        print_json(
            {
                "epoch": keyset.epoch + 1,
                "kid": found.following,
                "previous_kid": keyset.active.kid,
                "alg": found.kind[0],
                "bits": found.kind[1] or None,
                "epochs": 2 if found.replaces_next else 1,
                "opens": None if found.replaces_next else found.opens,
                "lacking": list(found.lacking),
                "without": list(found.left_out),
                "acknowledged": list(found.by),
                "room_at": found.room_at,
                "drop": list(found.drop),
                "drops_at": found.drops_at,
                "behind": found.behind,
                "changed": False,
            }
        )
        return
    kind = f"{found.kind[0]} {found.kind[1]}" if found.kind[1] else found.kind[0]
    if found.replaces_next:
        print_line(f"epoch {keyset.epoch + 1}: another next key ({kind}) is published; {keyset.active.kid} still signs")
        print_line(f"epoch {keyset.epoch + 2}: it signs, {span(found.wait)} later and once every live node has it")
        print_line(f"  with --wait --timeout {span(found.wait + 600)} this command does both;")
        print_line("  else keydist key rotate again then, or a leader's agent does it by itself")
        return
    print_line(f"epoch {keyset.epoch + 1}: {found.following} signs, {keyset.active.kid} only verifies")
    print_line(f"  not before      {date(found.opens)}")
    print_line(f"  waits for       {_waits_for(found)}")
    if found.room_at is not None:
        print_line(f"  no room before  {date(found.room_at)}: too many retired keys")
    for kid in found.drop:
        print_line(f"  leaves          {kid}")
    print_line(f"a new key ({kind}) is published as next")
    print_line(f"{keyset.active.kid} may leave the keyset from {date(found.drops_at)}")


def _waits_for(found: Plan) -> str:
    if found.lacking:
        return ", ".join(found.lacking)
    if found.by:
        return f"nobody: acknowledged by {', '.join(found.by)}"
    return "nobody: no node says that it lives, so only the time counts"


def _show_rotated(done: Rotated, found: Acknowledgement, late: KeydistError | None, *, as_json: bool) -> None:
    keyset = done.done.held.keyset
    tell_alarms(done.done.alarms)
    late_alarms = tuple(alarm for alarm in (late, found.blind) if alarm is not None)
    if as_json:
        facts = {"epoch": keyset.epoch, "kid": keyset.active.kid, "previous_kid": done.previous_kid}
        more = {"lacking": list(found.lacking), "acknowledged": list(found.by or done.plan.by)}
        state = {"complete": done.complete, "opens": None if done.complete else done.opens}
        print_json(facts | more | state | {"alarms": alarms_json(*done.done.alarms, *late_alarms), "changed": True})
    elif done.complete:
        print_line(f"epoch {keyset.epoch}: {keyset.active.kid} signs, {done.previous_kid} only verifies")
    else:
        print_line(f"epoch {keyset.epoch}: a new key is published as next; {keyset.active.kid} still signs")
    if late is not None:
        tell(f"keydist: epoch {keyset.epoch} is written, the next one is not: {late}")
    elif not done.complete:
        tell(f"keydist: from {date(done.opens)}, once every live node has it: keydist key rotate")
    elif not done.plan.by:
        tell("keydist: nobody had acknowledged the key: no node says that it lives, so only the time counted")
