"""The accounts of a keydist cluster: for the keys, leaders, followers and regions' links, by the pattern that holds.

A request's reply subject is not checked by the server, so in the account of the streams a permission to ask is one to
write, to purge and to delete. All others therefore import what they may do, and a reply subject names a subject of
their own account, where no stream listens. How the imports are written decides whether that holds: docs/nats.md.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.adapters.nats.bucket import IMPORTED_READ, WHO, delivered
from keydist.adapters.nats.permissions import (
    CHANGES_HEARD,
    RECORDS_HEARD,
    Permissions,
    Subjects,
    follower,
    inbox,
    leader,
    mirror_operator,
    operator,
)
from keydist.adapters.nats.regions import flow, link, mappings_here, mappings_home, mirroring, ways
from keydist.adapters.nats.server_text import Because
from keydist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS: Final = "KEYS"
LEADERS: Final = "LEADERS"
FLEET: Final = "FLEET"
LINKS: Final = "LINKS"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NKEY: Final = re.compile(r"U[A-Z2-7]{55}", re.ASCII)
_SEED: Final = re.compile(r"S[A-Z2-7]{57}", re.ASCII)
_USER_PREFIX: Final = 20 << 3
_ANSWER: Final = Because({"max": 1, "expires": "5s"}, "one answer to each question that it is asked")
_OPERATOR_HEAD: Final = "The operator, in the only account with JetStream: here a reply subject reaches everything."
_LEADERS_HEAD: Final = """\
The leaders. They reach nothing of the keys' account but what is imported below. The server does not check the reply
subject of a request: in the account of the streams, who may ask could have the answer delete them."""
_FOLLOWERS_HEAD: Final = "The followers, in the same way and with less."
_LINKS_HEAD: Final = """\
The links of the regions, in the same way: whoever holds a region's secrets is a follower of many names here."""
_LINK_HEAD: Final = "What comes by a region's link, and what it stands for: a link can ask nothing else of JetStream."
_HOME_HEAD: Final = "What goes home, and its name on the link: JetStream's own subjects do not cross it."
_MIRROR_HEAD: Final = "The operator, in the only account with JetStream and the link to home."
_WILDCARD: Final = "A service, with a wildcard, not renamed: every other form let users overwrite what is not theirs."
_RENAMED: Final = "renamed: under its own name it does not work across accounts"


class User(NamedTuple):
    """A user by name (a node's, or the operator's) and public nkey."""

    name: str
    nkey: str


class Users(NamedTuple):
    """Everybody who may connect; `links` are regions' servers."""

    operator: User
    leaders: tuple[User, ...]
    followers: tuple[User, ...]
    links: tuple[User, ...] = ()

    @property
    def everybody(self) -> tuple[User, ...]:
        """All of them, the operator first."""
        return (self.operator, *self.leaders, *self.followers, *self.links)


def check_name(name: str) -> str:
    """Return what can be a user's name. Raises `ConfigError`: a dot or a wildcard would be others' subjects."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "that cannot be the name of a node",
            expected="1 to 64 letters, digits, - and _",
            found=ascii(name)[:80],
            fix="name it as node: of its configuration does",
        )
    return name


def check_nkey(name: str, text: str) -> str:
    """Return what is a user's public nkey. Raises `ConfigError`, and never shows a seed."""
    if _SEED.search(text):
        raise ConfigError(
            f"the nkey of {name} is a seed, which is a secret",
            expected="a public nkey: U and 55 letters and digits",
            found="text that is not shown",
            fix="make a new one, as this one was exposed on a command line; then name its public nkey",
        )
    raw = base64.b32decode(text) if _NKEY.fullmatch(text) and len(text) % 8 == 0 else b""
    if not raw or raw[0] != _USER_PREFIX or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ConfigError(
            f"the nkey of {name} is none of a user",
            expected="a public nkey: U and 55 letters and digits",
            found=ascii(text)[:80],
            fix="copy it as nk -inkey FILE -pubout prints it",
        )
    return text


class _Import(NamedTuple):
    """What an account imports of the keys' account or another, and why; `to`: under another name."""

    subject: str
    why: str
    to: str | None = None
    kind: str = "service"
    account: str = KEYS

    def rendered(self) -> Because:
        """Return it as the importing account has it."""
        renamed = {} if self.to is None else {"to": self.to}
        return Because({self.kind: {"account": self.account, "subject": self.subject}} | renamed, self.why)


def _for_all(use: Subjects) -> list[_Import]:
    return [
        _Import(use.direct_get, "a read of the keyset from any replica"),
        _Import(use.leader_get, f"a read from the stream's leader, {_RENAMED}", IMPORTED_READ),
        _Import(f"{use.records}*", f"its own record. {_WILDCARD}"),
        _Import(f"{use.trail}*", f"its own audit trail. {_WILDCARD}"),
        _Import(CHANGES_HEARD, "hears that the keyset changed", kind="stream"),
    ]


def _for_leaders(use: Subjects) -> list[_Import]:
    return [
        _Import(use.entry, "writes the keyset"),
        _Import(use.info, f"how the keyset's stream is, {_RENAMED}", use.imported_info),
        _Import(use.records_info, f"how the records' stream is, {_RENAMED}", use.imported_records_info),
        _Import(use.records_get, "reads all records"),
        _Import(use.trail_get, "reads the audit trail of all nodes"),
        _Import(f"{use.trail_get}.>", "reads the audit trail of one node"),
        _Import(RECORDS_HEARD, "hears records as they are written", kind="stream"),
    ]


def _for_followers(use: Subjects) -> list[_Import]:
    return [_Import(f"{use.trail_last}*", f"the end of its own trail. {_WILDCARD}")]


def _for_links(users: Users, use: Subjects) -> list[_Import]:
    mirrors = [mirroring(use, region.name) for region in users.links]
    stands = [_Import(way.subject, way.why, way.link) for way in (*ways(use), *mirrors) if "*" not in way.link]
    askers = [(KEYS, users.operator), *((LEADERS, user) for user in users.leaders)]
    return [
        *stands,
        _Import(f"{use.records}*", f"its nodes' records. {_WILDCARD}"),
        _Import(f"{use.trail}*", f"its nodes' audit trails. {_WILDCARD}"),
        _Import(f"{use.trail_last}*", f"the ends of its nodes' trails. {_WILDCARD}"),
        _Import(flow(use, "*"), "how fast mirrors read"),
        _Import(delivered(use.bucket, "*"), "what mirrors read", kind="stream"),
        *(_Import(WHO, "hears who asks for the living", kind="stream", account=one) for one in (LEADERS, KEYS)),
        *(_Import(inbox(user.name).subject, "answers that", account=one) for one, user in askers),
    ]


def accounts(users: Users, use: Subjects) -> dict[str, Any]:
    """Return the member `accounts` of a nats-server configuration. Raises `ConfigError` for names and nkeys.

    The first user of a role carries the reason of each permission, the others are the same with their own names.
    """
    _check(users)
    imported = {LEADERS: [*_for_all(use), *_for_leaders(use)], FLEET: [*_for_all(use), *_for_followers(use)]}
    if users.links:
        imported[LINKS] = _for_links(users, use)
    of_home = partial(operator, regions=tuple(region.name for region in users.links))
    in_keys = _users((users.operator,), of_home, use, "the operator: makes the buckets, forgets nodes")
    in_leaders = _users(users.leaders, leader, use, "a leader: writes the keyset")
    made: dict[str, Any] = {
        KEYS: {
            "jetstream": {"max_streams": Because(len(use.streams), f"{', '.join(use.streams)}, and nothing else")},
            "users": Because(in_keys, _OPERATOR_HEAD),
            "exports": _exports(KEYS, imported),
            "imports": [_asks(LEADERS, "the operator's question reaches leaders, and by them followers")],
        },
        LEADERS: {
            "users": Because(in_leaders, _LEADERS_HEAD),
            "exports": [_answers(KEYS), *_exports(LEADERS, imported)],
            "imports": [*_rendered(imported[LEADERS]), _asks(FLEET, "a leader's question reaches followers")],
        },
        FLEET: {
            "users": _followers(users, use),
            "exports": [_answers(LEADERS)],
            "imports": _rendered(imported[FLEET]),
        },
    }
    if users.links:
        made[LINKS] = _links(users, use, imported[LINKS])
    return made


def _followers(users: Users, use: Subjects) -> Because:
    return Because(_users(users.followers, follower, use, "a follower: reads the keyset"), _FOLLOWERS_HEAD)


def _links(users: Users, use: Subjects, imported: list[_Import]) -> dict[str, Any]:
    asking = tuple(user.name for user in (*users.leaders, users.operator))

    return {
        "mappings": Because(mappings_home(use), _LINK_HEAD),
        "users": Because(
            _users(users.links, partial(link, asking=asking), use, "a region's link to home"), _LINKS_HEAD
        ),
        "imports": _rendered(imported),
    }


def region_accounts(users: Users, use: Subjects, asking: tuple[str, ...]) -> dict[str, Any]:
    """Return the member `accounts` of a region's servers; `asking` are the users at home who ask for the living.

    What followers may do is what they may do at home. Raises `ConfigError` for names and nkeys.
    """
    _check(users)
    why = "hears who asks at home; as a stream, since of a service home would be told that somebody listens"
    answered = [_Import(inbox(check_name(name)).subject, "answers that") for name in asking]
    imported = [*_for_all(use), *_for_followers(use), _Import(WHO, why, kind="stream"), *answered]
    in_keys = _users((users.operator,), mirror_operator, use, "the operator: makes the mirror")
    return {
        KEYS: {
            "jetstream": {"max_streams": Because(1, f"the mirror of {use.streams[0]}, and nothing else")},
            "mappings": Because(mappings_here(use), _HOME_HEAD),
            "users": Because(in_keys, _MIRROR_HEAD),
            "exports": _exports(KEYS, {FLEET: imported}),
        },
        FLEET: {"users": _followers(users, use), "imports": _rendered(imported)},
    }


def _rendered(imported: list[_Import]) -> list[object]:
    return [one.rendered() for one in imported]


def _exports(account: str, imported: dict[str, list[_Import]]) -> list[object]:
    """Return what an account lets others import, each with the accounts that do."""
    whose: dict[tuple[str, str], list[str]] = {}
    for other, several in imported.items():
        for one in several:
            if one.account == account:
                whose.setdefault((one.kind, one.subject), []).append(other)
    return [{kind: subject, "accounts": allowed} for (kind, subject), allowed in whose.items()]


def _asks(account: str, why: str) -> Because:
    return Because({"service": {"account": account, "subject": WHO}}, why)


def _answers(account: str) -> Because:
    answers = {"service": WHO, "accounts": [account], "response_type": "stream"}
    return Because(answers, "whoever lives may answer, so the answers are many")


def _check(users: Users) -> None:
    for user in users.everybody:
        check_nkey(check_name(user.name), user.nkey)
    for what in ("name", "nkey"):
        seen: dict[str, str] = {}
        for user in users.everybody:
            key = getattr(user, what)
            if key in seen:
                raise ConfigError(
                    f"two users have one {what}",
                    expected=f"a {what} of its own for each",
                    found=user.name if what == "name" else f"{seen[key]} and {user.name}",
                    fix="a node has one role; the operator is none of the nodes",
                )
            seen[key] = user.name


def _users(
    users: tuple[User, ...], role: Callable[[str, Subjects], Permissions], use: Subjects, about: str
) -> list[object]:
    return [_user(user, role(user.name, use), about if not number else "") for number, user in enumerate(users)]


def _user(user: User, may: Permissions, about: str) -> Because:
    """Return one user; with `about` its permissions carry their reasons."""

    def listed(name: str) -> list[object]:
        return [Because(*allowed) if about else allowed.subject for allowed in getattr(may, name)]

    permissions: dict[str, object] = {"publish": listed("publish"), "subscribe": listed("subscribe")}
    if may.answers:
        permissions["allow_responses"] = _ANSWER if about else _ANSWER.value
    head = f"{user.name}, {about}; the reason for each permission stands beside it" if about else user.name
    return Because({"nkey": user.nkey, "permissions": permissions}, head)
