"""Changes that a person makes to a key's time or to the policy: one epoch each, nothing where nothing changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from keydist.core.policy import MEMBERS, check_policy_change
from keydist.core.successor import extended, with_policy
from keydist.errors import MalformedError, UsageError
from keydist.services.advance import advance
from keydist.services.command import Command, Current, look, on_top

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keydist.core.accept import Held
    from keydist.core.keyset import Keyset
    from keydist.core.local import Local
    from keydist.errors import KeydistError


class Changed(NamedTuple):
    """A change as it was made, or would be: the keysets `before` and `after` it, one where nothing changes.

    `is_made` tells whether an epoch was written; `behind` is the epoch of this node where the store holds another.
    """

    before: Keyset
    after: Keyset
    is_made: bool = False
    alarms: tuple[KeydistError, ...] = ()
    behind: int | None = None


async def extend(command: Command, local: Local, *, kid: str, until: int, dry_run: bool = False) -> Changed:
    """Raise a key's `verify_until` (unix seconds). Raises `UsageError` for a key or a time that cannot be."""

    def build(held: Held, now: int) -> Keyset:
        if any(key.kid == kid and key.verify_until == until for key in held.keyset.keys):
            return held.keyset
        keyset = extended(held, now=now, kid=kid, until=until)
        if until <= now:
            raise UsageError(
                "the time has passed: it would change nothing",
                expected=f"later than unix time {now}",
                found=str(until),
                fix="name a time to come, or one from now: --until +30d",
            )
        return keyset

    return await _change(command, local, build, dry_run=dry_run)


async def set_policy(command: Command, local: Local, values: Mapping[str, int], *, dry_run: bool = False) -> Changed:
    """Set members of the policy. Raises `UsageError` for one that may not be so."""
    unknown = set(values) - set(MEMBERS)
    if unknown:
        raise UsageError(
            f"the policy has no {min(unknown)[:32]!a}", expected=", ".join(MEMBERS), fix="see: keydist policy show"
        )

    def build(held: Held, now: int) -> Keyset:
        old = held.keyset.policy
        try:
            new = replace(old, **values)
            check_policy_change(old, new)
        except MalformedError as exc:
            fix = "see: keydist policy show; what depends on each other is set in one command"
            raise UsageError(exc.message, expected=exc.expected, found=exc.found, fix=fix) from exc
        return held.keyset if new == old else with_policy(held, now=now, policy=new)

    return await _change(command, local, build, dry_run=dry_run)


async def _change(command: Command, local: Local, build: Callable[[Held, int], Keyset], *, dry_run: bool) -> Changed:
    """Write what `build` makes of the current keyset, but where that is the same, or where it is only asked."""
    if dry_run:
        current = await look(command, local)
        return Changed(current.held.keyset, build(current.held, command.node.clock.now()), behind=current.behind)
    return await on_top(command, local, lambda current: _write(command, current, build))


async def _write(command: Command, current: Current, build: Callable[[Held, int], Keyset]) -> Changed:
    before = current.held.keyset
    after = build(current.held, command.node.clock.now())
    if after is before:
        return Changed(before, after)
    done = await advance(command.node, current.local, build, entropy=command.entropy)
    return Changed(before, done.held.keyset, is_made=True, alarms=done.alarms)
