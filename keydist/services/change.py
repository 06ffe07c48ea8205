"""Changes that a person makes to a key's time or to the policy: one epoch each, nothing where nothing changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keydist.core.policy import MEMBERS, check_policy_change
from keydist.core.successor import extended, with_policy
from keydist.errors import MalformedError, UsageError
from keydist.services.advance import Advanced, advance
from keydist.services.command import Command, up_to_date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keydist.core.local import Local


async def extend(command: Command, local: Local, *, kid: str, until: int) -> Advanced | None:
    """Raise a key's `verify_until` (unix seconds); None where it is that already. Raises `UsageError`."""
    local = await up_to_date(command, local)
    if local.held is not None and any(key.kid == kid and key.verify_until == until for key in local.held.keyset.keys):
        return None
    return await advance(
        command.node,
        local,
        lambda held, now: extended(held, now=now, kid=kid, until=until),
        entropy=command.entropy,
    )


async def set_policy(command: Command, local: Local, values: Mapping[str, int]) -> Advanced | None:
    """Set members of the policy; None where they are so already. Raises `UsageError` for one that may not be."""
    local = await up_to_date(command, local)
    if local.held is None:  # pragma: no cover - it is up to date
        raise AssertionError
    unknown = set(values) - set(MEMBERS)
    if unknown:
        raise UsageError(f"the policy has no {min(unknown)[:32]!a}", expected=", ".join(MEMBERS))
    old = local.held.keyset.policy
    try:
        new = replace(old, **values)
        check_policy_change(old, new)
    except MalformedError as exc:
        raise UsageError(exc.message, expected=exc.expected, found=exc.found, fix="see: keydist policy show") from exc
    if new == old:
        return None
    return await advance(
        command.node, local, lambda held, now: with_policy(held, now=now, policy=new), entropy=command.entropy
    )
