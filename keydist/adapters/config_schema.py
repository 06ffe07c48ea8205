"""The one table of configuration fields: name, shape, default and description; the JSON Schema is made from it.

A shape says twice which values a field takes: as a parser, and as JSON Schema. A parser raises a `ConfigError`
whose message continues the field's name ("is not ..."); the loader puts the place and the name before it. What
looks like a secret is refused unseen: the configuration names the files that hold secrets, never a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from keydist.adapters import duration
from keydist.core.policy import MEMBERS, Policy
from keydist.errors import ConfigError

RSA_ALGS: Final = frozenset({"RS256", "PS256"})
MAX_INT: Final = 2**53 - 1

_LABEL: Final = "[A-Za-z0-9_-]{1,63}"  # longer, and no resolver takes it
_HOST: Final = rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?"
_SERVER: Final = rf"(nats|tls)://{_HOST}"
_ISSUER: Final = rf"(https?)://{_HOST}(?:/[A-Za-z0-9._~!$&'()*+,;=:%/-]*)?"
_LOOPBACK: Final = r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]"
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
LISTEN: Final = rf"(localhost|{_OCTET}(?:\.{_OCTET}){{3}}|\[[0-9A-Fa-f:.]+\]):([0-9]{{1,5}})"
_SECRETS: Final = r"kdt1_[0-9a-z_]{50}|(?<![A-Z2-7])S[A-Z2-7]{57}(?![A-Z2-7])|-----BEGIN"
"""A bootstrap token, an NKEY seed, PEM or a NATS credentials file."""
MAX_PORT: Final = 65_535
MAX_TEXT: Final = 4_096


class Shape(NamedTuple):
    """Which values a field takes: a parser, the same as JSON Schema, and how one line of text becomes its input."""

    parse: Callable[[object], object]
    schema: Mapping[str, Any]
    from_text: Callable[[str], object] = str


class Field(NamedTuple):
    """One leaf of the configuration; `nullable`: an empty value in the file means that it is not set."""

    name: str
    shape: Shape
    default: Any
    about: str
    nullable: bool = False
    empty_is_off: bool = False
    """An empty value, or empty text, turns off what the default would have on."""


def kind_of(value: object) -> str:
    """Return how an error names the kind of a value; the value itself may be a secret."""
    kinds = ((bool, "a boolean"), (int, "an integer"), (str, "text"), (list, "a list"), (dict, "a mapping"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "nothing")


def shown(text: str) -> str:
    """Return text for an error message: quoted, ASCII and short, or not at all where it may hold a credential."""
    return "text that is not shown" if any(mark in text for mark in "@?#") else ascii(text[:64])


def text_of(value: object, expected: str) -> str:
    """Return a value that is text, and not what looks like a secret. Raises `ConfigError`."""
    if not isinstance(value, str):
        bare = isinstance(value, int)  # booleans too
        fix = "put it in quotes: bare yes, no, on, off and numbers are not text in YAML" if bare else ""
        raise ConfigError("is not text", expected=expected, found=kind_of(value), fix=fix)
    if re.search(_SECRETS, value) or "@" in value.partition("://")[2]:
        raise ConfigError(
            "holds what looks like a secret",
            expected=expected,
            found="text that is not shown",
            fix="keep the secret in a file of its own and name that file; replace the secret, as it was exposed here",
        )
    return value


def _pattern(pattern: str, expected: str, *, most: int) -> Shape:
    def parse(value: object) -> str:
        text = text_of(value, expected)
        if len(text) > most or not re.fullmatch(pattern, text):
            raise ConfigError("is not well formed", expected=expected, found=shown(text))
        return text

    return Shape(parse, {"type": "string", "pattern": f"^(?:{pattern})$", "maxLength": most})


def _choice(*names: str) -> Shape:
    def parse(value: object) -> str:
        text = text_of(value, " or ".join(names))
        if text not in names:
            raise ConfigError("is not one of the known ones", expected=" or ".join(names), found=shown(text))
        return text

    return Shape(parse, {"type": "string", "enum": list(names)})


def _number_from_text(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_INT)) else text


def _whole(value: object, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError("is not an integer", expected=expected, found=kind_of(value))
    return value


def _integer(*known: int) -> Shape:
    """Return the shape of an integer: one of those known, or any count from 0 where none are given."""
    expected = ", ".join(map(str, known)) or "an integer of at least 0"

    def parse(value: object) -> int:
        number = _whole(value, expected)
        if number not in known and (known or not 0 <= number <= MAX_INT):
            raise ConfigError("is out of range", expected=expected, found=str(number))
        return number

    limits: dict[str, Any] = {"enum": list(known)} if known else {"minimum": 0, "maximum": MAX_INT}
    return Shape(parse, {"type": "integer", **limits}, _number_from_text)


def duration_shape(least: int = 0, most: int = MAX_INT) -> Shape:
    """Return the shape of a duration in seconds, between two bounds."""
    bounds = [duration.format_duration(bound) for bound in (least, most)]
    expected = f"at least {bounds[0]}" if most == MAX_INT else f"{bounds[0]} to {bounds[1]}"

    def parse(value: object) -> int:
        seconds = duration.parse_duration(value) if isinstance(value, str) else _whole(value, duration.EXPECTED)
        if not least <= seconds <= most:
            raise ConfigError("is out of range", expected=expected, found=f"{seconds}s")
        return seconds

    pattern = f"^(?:{duration.PATTERN})$"
    return Shape(parse, {"type": ["string", "integer"], "pattern": pattern, "minimum": least, "maximum": most})


def _parse_path(value: object) -> str:
    expected = "the path of a file or directory"
    text = text_of(value, expected)
    if not 0 < len(text) <= MAX_TEXT or not text.isprintable() or text != text.strip():
        raise ConfigError("is not a path", expected=expected, found=shown(text))
    if text[0] in "~$":
        raise ConfigError("is not expanded", expected=expected, found=shown(text), fix="write it out in full")
    return text


def _check_port(port: str | None, expected: str) -> None:
    if port is not None and not 0 < int(port) <= MAX_PORT:
        raise ConfigError("has an impossible port", expected=expected, found=port)


def _parse_issuer(value: object) -> str:
    expected = "an https:// address without query or fragment (http:// only for this machine's own loopback)"
    text = text_of(value, expected)
    match = re.fullmatch(_ISSUER, text) if len(text) <= MAX_TEXT else None
    if match is None or (match[1] == "http" and not re.fullmatch(_LOOPBACK, match[2])):
        raise ConfigError("is not an address to publish under", expected=expected, found=shown(text))
    _check_port(match[3], expected)
    return text


def _parse_servers(value: object) -> tuple[str, ...]:
    expected = "a list of nats://host:port or tls://host:port"
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind_of(value)
        fix = "write it as a list, in square brackets" if isinstance(value, str) else ""
        raise ConfigError("is not a list of servers", expected=expected, found=found, fix=fix)
    for server in value:
        text = text_of(server, expected)
        match = re.fullmatch(_SERVER, text) if len(text) <= MAX_TEXT else None
        if match is None:
            raise ConfigError("has a server that is not well formed", expected=expected, found=shown(text))
        _check_port(match[3], expected)
    return tuple(value)


def _parse_listen(value: object) -> object:
    from keydist.adapters.config_serve import parse_listen  # noqa: PLC0415 - most nodes keep the default

    return parse_listen(value)


def is_loopback(listen: str) -> bool:
    """Tell whether an address to listen at is only reached from this machine."""
    return re.fullmatch(_LOOPBACK, listen.rpartition(":")[0]) is not None


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _parse_hooks(value: object) -> object:
    if value == []:
        return ()
    from keydist.adapters.config_hooks import parse_hooks  # noqa: PLC0415 - most nodes have none

    return parse_hooks(value)


def _parse_credentials(value: object) -> object:
    if value == []:
        return ()
    from keydist.adapters.config_credentials import parse_credentials  # noqa: PLC0415 - most nodes have none

    return parse_credentials(value)


def _parse_allow(value: object) -> object:
    if value == []:
        return ()
    from keydist.adapters.config_serve import parse_rules  # noqa: PLC0415 - most nodes have none

    return parse_rules(value)


def _parse_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("is not a boolean", expected="true or false", found=kind_of(value))
    return value


def _switch_from_text(text: str) -> object:
    return {"true": True, "false": False}.get(text, text)


_SWITCH: Final = Shape(_parse_switch, {"type": "boolean"}, _switch_from_text)
PATH: Final = Shape(_parse_path, {"type": "string", "minLength": 1, "maxLength": MAX_TEXT})
_ISSUER_URL: Final = Shape(_parse_issuer, {"type": "string", "pattern": f"^{_ISSUER}$", "maxLength": MAX_TEXT})
_SERVER_LIST: Final = {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": f"^{_SERVER}$"}}
_SERVERS: Final = Shape(_parse_servers, _SERVER_LIST, _split)
_CLUSTER: Final = _pattern("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, dots, - and _", most=64)
_NODE: Final = _pattern("[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, - and _ (no dots)", most=64)
_BUCKET: Final = _pattern("[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, - and _", most=64)
TOKEN_FILE: Final = "/etc/keydist/token"  # noqa: S105 - where it stands, not what it is
_GROUP: Final = _pattern("[A-Za-z_][A-Za-z0-9_.-]{0,31}", "the name of a group", most=32)
_ENTRY: Final = _pattern(
    r"[A-Za-z0-9_=/-]+(?:\.[A-Za-z0-9_=/-]+)*", "letters, digits, - _ = / and single dots between them", most=250
)
_LISTEN_AT: Final = Shape(_parse_listen, {"type": "string", "pattern": f"^{LISTEN}$", "maxLength": MAX_TEXT})
_LINEAGE: Final = _pattern("[0-9a-f]{32}", "32 lower-case hex digits", most=32)
_TIME: Final = duration_shape()

TLS_SECTIONS: Final = ("nats.tls", "http.tls")
"""Sections that must not be empty: that might be taken for plain text."""
SECTIONS: Final[Mapping[str, str]] = {
    "nats": "How the store is reached, and where in it the keyset stands.",
    "nats.tls": "TLS towards the servers; {} trusts the system's CAs. Never given up once it is asked for.",
    "http": "Where the public keys and the state of this node are served.",
    "http.tls": "TLS of http.listen; needed where that is not this machine's own loopback.",
    "metrics": "Where the metrics are served, if not with the rest.",
    "socket": "The socket at which local processes mint and verify.",
    "key": "What signing keys are generated at genesis; later by command.",
    "bootstrap": "How a node gets its first keyset.",
    "rotation": "When keys are replaced; counts at genesis only.",
    "audit": "The audit trail: what happens to the keyset, who did it, and what is minted.",
    "policy": "The times of rotation and verification; counts at genesis only, later by command.",
}

_POLICY: Final[Mapping[str, tuple[str, Shape, str]]] = {
    "propagation": ("policy.propagation", _TIME, "How long a next key is published before it may sign."),
    "freshness": ("policy.freshness", _TIME, "How recently an epoch was confirmed where an unknown kid is invalid."),
    "stale_read": ("policy.stale_read", _TIME, "The longest that a deposed stream leader may still answer."),
    "jwks_max_age": ("policy.jwks_max_age", _TIME, "The max-age that outside verifiers of the JWK Set honour."),
    "max_lifetime": ("policy.max_lifetime", _TIME, "The longest lifetime of a JWT."),
    "mint_lease": ("policy.mint_lease", _TIME, "How long a node mints without confirming its epoch."),
    "leeway": ("policy.leeway", _TIME, "What verification allows for clocks; at least twice the skew."),
    "skew": ("policy.skew", _TIME, "The most by which two clocks of the cluster differ."),
    "rotate_every": ("rotation.every", _TIME, "How often the signing key is replaced; 0s for never."),
    "max_tokens_per_key": ("rotation.max_tokens_per_key", _integer(), "JWTs that a key may sign; 0 for no limit."),
}

POLICY_NAMES: Final[Mapping[str, str]] = {member: _POLICY[member][0] for member in MEMBERS}
"""Where the configuration keeps each member of the policy."""

FIELDS: Final[tuple[Field, ...]] = (
    Field("cluster", _CLUSTER, None, "The cluster's name, the same on every node; what seals the keyset binds it."),
    Field("node", _NODE, None, "This node's name; by default the host's, up to its first dot.", nullable=True),
    Field("role", _choice("leader", "follower"), "follower", "Whether this node may generate and rotate keys."),
    Field("issuer", _ISSUER_URL, None, "The iss of JWTs, and the base of the published documents.", nullable=True),
    Field("token_file", PATH, TOKEN_FILE, "The bootstrap token, where nothing else names one.", nullable=True),
    Field("state_dir", PATH, "/var/lib/keydist", "Where the keyset is kept."),
    Field("runtime_dir", PATH, "/run/keydist", "Where sockets and rendered keys stand; a tmpfs."),
    Field("group", _GROUP, None, "The group that may read the signing key.", nullable=True),
    Field("at_rest", _choice("plain", "sealed"), "plain", "Whether the opened keyset is kept on disk."),
    Field("nats.servers", _SERVERS, ("nats://127.0.0.1:4222",), "The servers, without user or password."),
    Field("nats.bucket", _BUCKET, "keydist", "The key-value bucket that holds the keyset, and nothing else."),
    Field("nats.entry", _ENTRY, "signing-key", "The entry of the bucket that holds the keyset."),
    Field("nats.creds_file", PATH, None, "A NATS credentials file; excludes nkey_file.", nullable=True),
    Field("nats.nkey_file", PATH, None, "A file with an NKEY seed; excludes creds_file.", nullable=True),
    Field("nats.tls.ca_file", PATH, None, "The CAs of the servers' certificates, instead of the system's."),
    Field("nats.tls.cert_file", PATH, None, "This node's certificate, for servers that ask for one."),
    Field("nats.tls.key_file", PATH, None, "The private key of cert_file."),
    Field("key.alg", _choice("RS256", "PS256", "ES256", "EdDSA"), "RS256", "The algorithm of signing keys."),
    Field("key.bits", _integer(2048, 3072, 4096), 3072, "The size of RSA keys; only for RS256 and PS256."),
    Field("bootstrap.timeout", duration_shape(0, 86_400), 30, "How long bootstrap waits for a keyset; 0s tries once."),
    *(Field(name, shape, getattr(Policy(), member), about) for member, (name, shape, about) in _POLICY.items()),
    Field("lineage", _LINEAGE, None, "Pins the lineage, and forbids to generate one.", nullable=True),
    Field("heartbeat", duration_shape(1, 3_600), 30, "How often a node writes its record."),
    Field(
        "resync",
        duration_shape(1, 3_600),
        45,
        "The mean pause between looks at the store beside its notices; a leader's: at most 5s.",
    ),
    Field("rehearse_every", _TIME, 2_592_000, "How old the last rehearsal of a backup may be; 0s for never asking."),
    Field(
        "http.listen",
        _LISTEN_AT,
        "127.0.0.1:7447",
        "Where HTTP is served; empty: nowhere. Beyond this machine only with http.tls.",
        empty_is_off=True,
    ),
    Field("http.tls.cert_file", PATH, None, "The certificate, with what leads to its CA."),
    Field("http.tls.key_file", PATH, None, "The private key of cert_file."),
    Field("metrics.listen", _LISTEN_AT, None, "Where /metrics is served, and then nowhere else.", nullable=True),
    Field("socket.path", PATH, None, "The socket; by default agent.sock in runtime_dir.", nullable=True),
    Field("socket.group", _GROUP, None, "The group of the socket.", nullable=True),
    Field(
        "socket.mode",
        _choice("0600", "0660", "0666"),
        None,
        "Who may connect; 0660 with a group, else 0666.",
        nullable=True,
    ),
    Field(
        "socket.allow", Shape(_parse_allow, {"type": "array"}), (), "Who may mint what at the socket.", nullable=True
    ),
    Field("audit.stream", _SWITCH, True, "Whether the agent brings the trail into the stream <bucket>-audit."),  # noqa: FBT003
    Field("audit.mints", _SWITCH, False, "Whether every JWT that is minted is recorded."),  # noqa: FBT003
    Field("hooks", Shape(_parse_hooks, {"type": "array"}), (), "What runs when the key changes.", nullable=True),
    Field(
        "credentials",
        Shape(_parse_credentials, {"type": "array"}),
        (),
        "Which systemd units take which credentials from creds.sock in runtime_dir.",
        nullable=True,
    ),
)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the configuration file."""
    from keydist.adapters import config_credentials, config_hooks, config_serve  # noqa: PLC0415 - no start needs them

    root = _object("The configuration file of keydist.")
    sections = {"": root}
    for path, about in SECTIONS.items():
        parent, _, leaf = path.rpartition(".")
        sections[path] = sections[parent]["properties"][leaf] = _object(about, nullable=path not in TLS_SECTIONS)
    for field in FIELDS:
        section, _, leaf = field.name.rpartition(".")
        sections[section]["properties"][leaf] = _leaf(field)
    sections["http.tls"]["required"] = ["cert_file", "key_file"]
    sections["nats.tls"]["dependentRequired"] = {"cert_file": ["key_file"], "key_file": ["cert_file"]}
    sections["socket"]["properties"]["allow"] |= {
        "maxItems": config_serve.MAX_RULES,
        "items": config_serve.rule_schema(),
    }
    root["properties"]["hooks"] |= {"maxItems": config_hooks.MAX_HOOKS, "items": config_hooks.hook_schema()}
    root["properties"]["credentials"] |= {
        "maxItems": config_credentials.MAX_RULES,
        "items": config_credentials.credential_schema(),
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "keydist.yaml"}
    return {**head, **root, "required": ["cluster"]}


def _object(about: str, *, nullable: bool = False) -> dict[str, Any]:
    kind = ["object", "null"] if nullable else "object"
    return {"type": kind, "description": about, "additionalProperties": False, "properties": {}}


def _leaf(field: Field) -> dict[str, Any]:
    leaf: dict[str, Any] = {**field.shape.schema, "description": field.about}
    if field.empty_is_off:
        leaf["pattern"] = f"^$|{leaf['pattern']}"
    if field.nullable or field.empty_is_off:
        leaf["type"] = [leaf["type"], "null"]
    if field.default is not None:
        leaf["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
    return leaf
