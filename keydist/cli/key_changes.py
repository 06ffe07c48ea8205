"""`keydist key revoke` and `extend`: what changes keys out of turn, one epoch each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keydist.cli.command import ConfigOption, DryRunOption, JsonOption, KidCommand, TokenOption, ask, finish, this_node
from keydist.cli.key_rotate import app
from keydist.cli.operate import (
    PATIENCE,
    TimeoutOption,
    WaitOption,
    alarms_json,
    operate,
    seconds_of,
    tell_acknowledged,
    tell_behind,
)
from keydist.cli.render import print_json, print_line, tell, tell_alarms
from keydist.cli.times import date, parse_time, span
from keydist.core.successor import check_reason
from keydist.errors import UsageError
from keydist.services.change import extend
from keydist.services.revoke import plan, revoke
from keydist.services.waiting import Acknowledgement, acknowledged

if TYPE_CHECKING:
    from keydist.services.command import Command
    from keydist.services.revoke import Broken, Plan, Revoked

__all__ = ["app"]


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
        kids, why = _named(kid, every=every), _reason(reason, dry_run=dry_run)
        seconds, node = seconds_of(timeout, "--timeout"), this_node(config, token_file)
        local = node.load()

        async def run(command: Command) -> int:
            asks = not yes and _is_terminal()
            if dry_run or asks:
                found = await plan(command, local, kids=kids)
                _show_plan(found, as_json=as_json and dry_run, is_asked=asks and not dry_run)
                if dry_run:
                    return 0
                if found.broken and not ask(f"Revoke {len(found.broken)} key(s)? It cannot be taken back."):
                    tell("keydist: nothing was revoked")
                    return 1
            done = await revoke(command, local, kids=kids, reason=why)
            if not asks:
                _tell_doubts(done.plan)
            found_by = Acknowledgement()
            if wait:
                found_by = await acknowledged(command, done.held, seconds=seconds)
            _show_revoked(done, found_by, as_json=as_json)
            return tell_acknowledged(found_by, f"epoch {done.held.keyset.epoch}") if wait else 0

        return operate(node, run)

    finish(work, as_json=as_json)


def _named(kid: str | None, *, every: bool) -> frozenset[str] | None:
    """Return the keys that are named; None for all. Raises `UsageError`."""
    if (kid is None) is not every:
        found = "both" if every else "neither"
        raise UsageError("name one key, or all", expected="KID or --all", found=found, fix="see: keydist key list")
    return None if kid is None else frozenset({kid})


def _reason(reason: str | None, *, dry_run: bool) -> str:
    """Return why; a dry run needs no reason. Raises `UsageError`."""
    if reason is None and dry_run:
        return ""
    if not reason:
        raise UsageError("a revocation says why", expected="--reason TEXT", found="none", fix='add --reason "what for"')
    check_reason(reason)
    return reason


def _is_terminal() -> bool:
    import sys  # noqa: PLC0415 - nowhere else

    return sys.stdin.isatty()


def _tell_doubts(found: Plan) -> None:
    if found.token_may_be_known:
        tell(
            f"keydist: warning: token {found.held.token_id} was not replaced since these keys were made: whoever has it"
            " opens the new keys too. In this order: the new token on every node, keydist token rotate, then revoke"
            " --all"
        )
    if found.blind is not None:
        tell(f"keydist: warning: the fleet cannot be seen, so what breaks is not known: {found.blind}")


def _show_plan(found: Plan, *, as_json: bool, is_asked: bool) -> None:
    """Show what breaks: as the answer of a dry run, or on standard error before a question."""
    tell_behind(found.behind, found.held)
    _tell_doubts(found)
    if as_json:
        facts = {"epoch": found.held.keyset.epoch + bool(found.broken), "kid": found.successor}
        more = {"revoked": list(found.kids), "broken": [_facts(key) for key in found.broken]}
        rest = {"lacking": list(found.lacking), "behind": found.behind, "changed": False}
        print_json(facts | more | rest | {"token_replaced": not found.token_may_be_known})
        return
    say = tell if is_asked else print_line
    for line in _lines(found):
        say(line)


def _facts(key: Broken) -> dict[str, object]:
    last = key.last_expiry or None
    return {"kid": key.kid, "use": key.use, "state": key.state.value, "jwts": key.jwts, "last_expiry": last}


def _lines(found: Plan) -> list[str]:
    if not found.broken:
        return [f"{', '.join(found.kids)} is revoked already: nothing would change"]
    lines = []
    for key in found.broken:
        lines += [f"{key.kid}  {key.use}, {key.state.value}", f"  {_what_stops(key)}"]
    if found.signs_anew:
        seconds = span(found.held.keyset.policy.jwks_max_age)
        lines += [
            f"then signs: {found.successor or 'a new key, which nobody has seen yet'}",
            f"  a verifier with a JWK Set from before refuses its JWTs for up to {seconds}"
            if found.successor is None
            else "  it is published already: verifiers with a fresh JWK Set have it",
        ]
    else:
        lines.append(f"still signs: {found.successor}")
    if found.lacking:
        lines.append(f"  cannot verify it until they follow: {', '.join(found.lacking)}")
    return lines


def _what_stops(key: Broken) -> str:
    if key.use == "enc":
        return "what was encrypted with it can no longer be decrypted"
    if not key.jwts:
        return "no node says that it minted a JWT with it"
    jwts = "1 JWT was" if key.jwts == 1 else f"{key.jwts} JWTs were"
    return f"{jwts} minted with it, as far as nodes say; the last one expires at {date(key.last_expiry)}"


def _show_revoked(done: Revoked, found: Acknowledgement, *, as_json: bool) -> None:
    keyset, kids = done.held.keyset, done.plan.kids
    alarms = done.done.alarms if done.done else ()
    tell_alarms(alarms)
    if as_json:
        facts = {"epoch": keyset.epoch, "kid": keyset.active.kid, "revoked": list(kids)}
        more = {"lacking": list(found.lacking), "acknowledged": list(found.by)}
        late = (found.blind,) if found.blind else ()
        print_json(facts | more | {"alarms": alarms_json(*alarms, *late), "changed": done.done is not None})
    elif done.done is None:
        print_line(f"epoch {keyset.epoch}: {', '.join(kids)} is revoked already; {keyset.active.kid} signs")
    else:
        print_line(f"epoch {keyset.epoch}: revoked {', '.join(kids)}; {keyset.active.kid} signs")


@app.command("extend", cls=KidCommand)
def extend_command(
    *,
    kid: Annotated[str, typer.Argument(metavar="KID", help="A key id, as keydist key list prints it.")],
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="RFC 3339, unix seconds, or +30d from now; never earlier.")
    ],
    dry_run: DryRunOption = False,
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
        done = operate(node, lambda command: extend(command, local, kid=kid, until=at, dry_run=dry_run))
        tell_alarms(done.alarms)
        epoch = done.after.epoch
        if as_json:
            facts = {"epoch": epoch, "kid": kid, "verify_until": at, "behind": done.behind}
            print_json(facts | {"changed": done.is_made})
        else:
            said = "would verify" if dry_run and done.after != done.before else "verifies"
            print_line(f"epoch {epoch}: {kid} {said} until {date(at)} at least")
        return 0

    finish(work, as_json=as_json)
