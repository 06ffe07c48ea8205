"""The accounts of a keydist cluster, one for the keys and one for the followers, by the pattern that holds.

A request's reply subject is not checked by the server, so within an account a permission to ask is one to write.
Followers therefore import what they may do, and a reply subject names a subject of their own account, where no
stream listens. How the imports are written decides whether that holds: docs/nats.md.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.adapters.nats.bucket import FOLLOWERS_READ, WHO
from keydist.adapters.nats.permissions import (
    CHANGES_HEARD,
    Permissions,
    Subjects,
    follower,
    inbox,
    leader,
    mirror_operator,
    operator,
)
from keydist.adapters.nats.regions import MIRRORED, flow, link, mappings_here, mappings_home, mirroring, ways
from keydist.adapters.nats.server_text import Because
from keydist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS: Final = "KEYS"
FLEET: Final = "FLEET"
LINKS: Final = "LINKS"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NKEY: Final = re.compile(r"U[A-Z2-7]{55}", re.ASCII)
_SEED: Final = re.compile(r"S[A-Z2-7]{57}", re.ASCII)
_USER_PREFIX: Final = 20 << 3
_ANSWER: Final = Because({"max": 1, "expires": "5s"}, "one answer to each question that it is asked")
_FOLLOWERS_HEAD: Final = """\
The followers. They reach nothing of the keys' account but what is imported below. The server does not check the
reply subject of a request: within one account, who may ask could have the answer written over the keyset."""

_LINK_HEAD: Final = "What comes by a region's link, and what it stands for: a link can ask nothing else of JetStream."
_LINKS_HEAD: Final = """\
The links of the regions. Whoever holds a region's secrets is a follower of many names here: what it may ask for is
imported, so that no answer can be had where it may not write."""
_HOME_HEAD: Final = "What goes home, and its name on the link: JetStream's own subjects do not cross it."


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


def accounts(users: Users, use: Subjects) -> dict[str, Any]:
    """Return the member `accounts` of a nats-server configuration. Raises `ConfigError` for names and nkeys.

    The first user of a role carries the reason of each permission, the others are the same with their own names.
    """
    _check(users)
    asking = tuple(user.name for user in (*users.leaders, users.operator))
    in_keys = [
        *_users((users.operator,), operator, use, "the operator: makes the buckets, forgets nodes"),
        *_users(users.leaders, leader, use, "a leader: writes the keyset"),
    ]
    question = Because({"service": {"account": FLEET, "subject": WHO}}, "a leader's question reaches followers")
    answers = {"service": WHO, "accounts": [KEYS], "response_type": "stream"}
    made = {
        KEYS: {
            "jetstream": {"max_streams": Because(len(use.streams), f"{', '.join(use.streams)}, and nothing else")},
            "users": Because(in_keys, "Operator and leaders, in the only account with JetStream."),
            "exports": _exports(use) + (_exported_to_links(use, asking) if users.links else []),
            "imports": [question],
        },
        FLEET: {
            "users": _followers(users.followers, use),
            "exports": [Because(answers, "every follower may answer, so the answers are many")],
            "imports": _imports(use),
        },
    }
    return made | ({LINKS: _links(users.links, use, asking)} if users.links else {})


def _exported_to_links(use: Subjects, asking: tuple[str, ...]) -> list[object]:
    services = (use.leader_get, *_imported(use), mirroring(use).subject, flow(use))
    return [
        *({"service": subject, "accounts": [LINKS]} for subject in services),
        *({"service": inbox(name).subject, "accounts": [LINKS]} for name in asking),
        *({"stream": subject, "accounts": [LINKS]} for subject in (MIRRORED, WHO)),
    ]


def _links(links: tuple[User, ...], use: Subjects, asking: tuple[str, ...]) -> dict[str, Any]:
    renamed = [way for way in (*ways(use), mirroring(use)) if "*" not in way.link]
    services = [*_imported(use), flow(use), *(inbox(name).subject for name in asking)]
    return {
        "mappings": Because(mappings_home(use), _LINK_HEAD),
        "users": Because(
            _users(links, lambda _name, use: link(use, asking), use, "a region's link to home"), _LINKS_HEAD
        ),
        "imports": [
            *({"service": {"account": KEYS, "subject": way.subject}, "to": way.link} for way in renamed),
            *({"service": {"account": KEYS, "subject": subject}} for subject in services),
            *({"stream": {"account": KEYS, "subject": subject}} for subject in (MIRRORED, WHO)),
        ],
    }


def region_accounts(users: Users, use: Subjects, asking: tuple[str, ...]) -> dict[str, Any]:
    """Return the member `accounts` of a region's servers; `asking` are the users at home who ask for the living.

    What followers may do is what they may do at home. Raises `ConfigError` for names and nkeys.
    """
    _check(users)
    in_keys = _users((users.operator,), mirror_operator, use, "the operator: makes the mirror")
    inboxes = [inbox(check_name(name)).subject for name in asking]
    why = "a question is heard by who subscribes to it: where nobody does, home is told so at once"
    questions = [Because({"stream": {"account": KEYS, "subject": WHO}}, why)]
    answers = [{"service": {"account": KEYS, "subject": subject}} for subject in inboxes]
    return {
        KEYS: {
            "jetstream": {"max_streams": Because(1, f"the mirror of {use.streams[0]}, and nothing else")},
            "mappings": Because(mappings_here(use), _HOME_HEAD),
            "users": Because(in_keys, "The operator, in the only account with JetStream and the link to home."),
            "exports": [
                *_exports(use),
                {"stream": WHO, "accounts": [FLEET]},
                *({"service": subject, "accounts": [FLEET]} for subject in inboxes),
            ],
        },
        FLEET: {
            "users": _followers(users.followers, use),
            "imports": [*_imports(use), *questions, *answers],
        },
    }


def _followers(users: tuple[User, ...], use: Subjects) -> Because:
    return Because(_users(users, follower, use, "a follower: reads the keyset"), _FOLLOWERS_HEAD)


def _imported(use: Subjects) -> list[str]:
    return [f"{use.records}*", f"{use.trail}*", f"{use.trail_last}*"]


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


def _exports(use: Subjects) -> list[object]:
    services = [use.direct_get, use.leader_get, *_imported(use)]
    return [
        *({"service": subject, "accounts": [FLEET]} for subject in services),
        {"stream": CHANGES_HEARD, "accounts": [FLEET]},
    ]


def _imports(use: Subjects) -> list[object]:
    def of_keys(subject: str) -> dict[str, str]:
        return {"account": KEYS, "subject": subject}

    wildcard = "A service, with a wildcard, not renamed: every other form let followers overwrite what is not theirs."
    return [
        Because({"service": of_keys(use.direct_get)}, "a follower reads the keyset"),
        Because(
            {"service": of_keys(use.leader_get), "to": FOLLOWERS_READ},
            "the leader's read: under its own name it does not work across accounts",
        ),
        *(Because({"service": of_keys(subject)}, wildcard) for subject in _imported(use)),
        Because({"stream": of_keys(CHANGES_HEARD)}, "hears that the keyset changed"),
    ]
