"""Who may mint what at the agent's socket. Whoever can connect may do everything else.

Root and the agent's own user may mint anything: they can read the key. Everybody else mints what a rule allows.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from keydist.errors import ConfigError, NotAllowedError

if TYPE_CHECKING:
    from keydist.adapters.config_serve import MintRule, Rule
    from keydist.adapters.http.guard import Peer


class Asked(NamedTuple):
    """What somebody wants to mint; `issuer` is None for the configured one, `lifetime` in seconds."""

    subject: str
    audience: tuple[str, ...]
    issuer: str | None
    lifetime: int


class _Grant(NamedTuple):
    uids: frozenset[int]
    gids: frozenset[int]
    mint: MintRule


class MintPolicy:
    """The rules of a configuration, by the numbers that the kernel knows users by."""

    def __init__(self, rules: Iterable[Rule], *, own_uid: int, issuer: str | None) -> None:
        """Raise `ConfigError` where a rule names somebody that this machine does not know."""
        self._trusted = frozenset({0, own_uid})
        self._issuer = issuer
        self._grants = tuple(
            _Grant(
                _numbers(rule.users, lambda name: pwd.getpwnam(name).pw_uid, "user"),
                _numbers(rule.groups, lambda name: grp.getgrnam(name).gr_gid, "group"),
                rule.mint,
            )
            for rule in rules
        )

    def check(self, peer: Peer, asked: Asked) -> None:
        """Refuse what no rule allows. Raises `NotAllowedError`."""
        if peer.uid in self._trusted:
            return
        grants = [grant for grant in self._grants if peer.uid in grant.uids or not peer.gids.isdisjoint(grant.gids)]
        if not grants:
            raise NotAllowedError(
                "this user may not mint here",
                expected="a user or a group that a rule of socket.allow names",
                found=f"uid {peer.uid}",
                fix="name it in a rule, then reload the agent",
            )
        if not any(self._allows(grant.mint, asked) for grant in grants):
            raise NotAllowedError(
                "this user may not mint that",
                expected="a subject, an audience, an issuer and a lifetime that one rule of socket.allow has",
                found=f"uid {peer.uid}",
                fix="ask for what the rule allows, or widen it and reload the agent",
            )

    def _allows(self, rule: MintRule, asked: Asked) -> bool:
        return (
            asked.lifetime <= rule.lifetime
            and _fits(asked.subject, rule.subjects)
            and all(_fits(audience, rule.audiences) for audience in asked.audience)
            and (asked.issuer in (None, self._issuer) or _fits(asked.issuer or "", rule.issuers))
        )


def _fits(text: str, patterns: tuple[str, ...]) -> bool:
    return any(text.startswith(one[:-1]) if one.endswith("*") else text == one for one in patterns)


def _numbers(names: Iterable[str], number_of: Callable[[str], int], what: str) -> frozenset[int]:
    found = set()
    for name in names:
        try:
            found.add(number_of(name))
        except KeyError:
            raise ConfigError(
                f"socket.allow names a {what} that this machine does not have",
                expected=f"a {what}",
                found=name,
                fix="add it, or remove it from the rule",
            ) from None
    return frozenset(found)
