"""The settled configuration of one node: its type, the rules between its fields, and where each value came from.

`load_config` takes what the layers settled (flag, environment, file, default), checks what no field can check
alone, and returns a `Config`; `describe` tells the source of each value. Every failure is a `ConfigError` that
names the place and the key, and shows no value that may be a secret. `KEYDIST_TOKEN_FILE` is not read here: it has
a place of its own in the search for the token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from keydist.adapters.config_layers import DEFAULT_PATH, TLS, Settled, settle
from keydist.adapters.config_schema import FIELDS, POLICY_NAMES, RSA_ALGS, is_loopback, json_schema
from keydist.core.policy import Policy
from keydist.errors import ConfigError, MalformedError

if TYPE_CHECKING:
    from keydist.adapters.config_credentials import CredentialRule
    from keydist.adapters.config_hooks import Hook
    from keydist.adapters.config_serve import Rule

__all__ = [
    "DEFAULT_PATH",
    "AuditConfig",
    "Config",
    "HttpConfig",
    "KeyConfig",
    "MetricsConfig",
    "NatsConfig",
    "ServerTls",
    "SocketConfig",
    "TlsConfig",
    "describe",
    "json_schema",
    "load_config",
]

MAX_LOCATION: Final = 256
NODES_BUCKET: Final = "keydist-nodes"
SOCKET: Final = "agent.sock"

_MAX_NODE: Final = 64
_TOP: Final = tuple(field.name for field in FIELDS if "." not in field.name and field.name != "node")


class TlsConfig(NamedTuple):
    """TLS towards NATS; without `ca_file` the system's CAs are trusted. Paths are absolute."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class NatsConfig(NamedTuple):
    """Where the store is; `tls` is None only where every server is `nats://` and nothing asked for TLS."""

    servers: tuple[str, ...]
    bucket: str
    entry: str
    creds_file: str | None
    nkey_file: str | None
    tls: TlsConfig | None


class ServerTls(NamedTuple):
    """The certificate that this node shows. Paths are absolute."""

    cert_file: str
    key_file: str


class HttpConfig(NamedTuple):
    """Where HTTP is served (None: nowhere), and with which certificate."""

    listen: str | None
    tls: ServerTls | None


class MetricsConfig(NamedTuple):
    """Where the metrics are served (None: with the rest)."""

    listen: str | None


class SocketConfig(NamedTuple):
    """The socket for local processes, and who may mint what at it; `group` is a name."""

    path: str
    group: str | None
    mode: int
    allow: tuple[Rule, ...]


class KeyConfig(NamedTuple):
    """What a genesis generates; `bits` is None for algorithms other than RSA."""

    alg: str
    bits: int | None


class AuditConfig(NamedTuple):
    """Where the audit trail goes, and whether it holds what is minted."""

    stream: bool
    mints: bool


class Config(NamedTuple):
    """The settled configuration of one node; paths are absolute, times in seconds."""

    cluster: str
    node: str
    role: Literal["leader", "follower"]
    issuer: str | None
    token_file: str | None
    state_dir: str
    runtime_dir: str
    group: str | None
    at_rest: Literal["plain", "sealed"]
    nats: NatsConfig
    key: KeyConfig
    bootstrap_timeout: float
    policy: Policy
    lineage: str | None
    heartbeat: int
    resync: int
    rehearse_every: int
    http: HttpConfig
    metrics: MetricsConfig
    socket: SocketConfig
    hooks: tuple[Hook, ...]
    credentials: tuple[CredentialRule, ...]
    audit: AuditConfig


def load_config(path: str | None, *, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Config:
    """Return the configuration; `overrides` are the flags, by dotted name. Raises `ConfigError`."""
    return _build(settle(path, environ, overrides))


def describe(
    path: str | None, *, environ: Mapping[str, str], overrides: Mapping[str, str]
) -> list[tuple[str, object, str]]:
    """Return each field's dotted name, value and source: flag, environment, file or default.

    One row is derived: `nats.tls`, whether TLS is demanded, and what asked for it. Raises `ConfigError`.
    """
    settled = settle(path, environ, overrides)
    config = _build(settled)
    values = settled.values | {"node": config.node, "key.bits": config.key.bits, TLS: config.nats.tls is not None}
    values |= {"socket.path": config.socket.path, "socket.mode": f"{config.socket.mode:04o}"}
    values["socket.allow"] = [rule.as_mapping() for rule in config.socket.allow]
    values["hooks"] = [hook.as_mapping() for hook in config.hooks]
    values["credentials"] = [rule.as_mapping() for rule in config.credentials]
    names = [field.name for field in FIELDS]
    names.insert(names.index(f"{TLS}.ca_file"), TLS)
    return [(name, values[name], settled.sources.get(name, "default")) for name in names]


def _build(settled: Settled) -> Config:
    values, place = settled.values, settled.place
    if values["cluster"] is None:
        raise ConfigError(
            f"{place}: cluster is missing",
            expected="the name of the cluster, the same on every node",
            fix=f"write it to {DEFAULT_PATH} or to a file named with --config, or set KEYDIST_CLUSTER",
        )
    if values["state_dir"] == values["runtime_dir"]:
        raise ConfigError(f"{place}: state_dir and runtime_dir are one directory", fix="name two")
    return Config(
        **{name: values[name] for name in _TOP},
        node=values["node"] or _host_name(place),
        nats=_nats(settled),
        http=_http(settled),
        metrics=MetricsConfig(values["metrics.listen"]),
        socket=_socket(settled),
        key=_key(settled),
        bootstrap_timeout=float(values["bootstrap.timeout"]),
        policy=_policy(settled),
        audit=AuditConfig(stream=values["audit.stream"], mints=values["audit.mints"]),
    )


def _nats(settled: Settled) -> NatsConfig:
    values, place = settled.values, settled.place
    nats = {name: values[f"nats.{name}"] for name in ("servers", "bucket", "entry", "creds_file", "nkey_file")}
    tls = TlsConfig(*(values[f"{TLS}.{name}"] for name in TlsConfig._fields))
    if (tls.cert_file is None) != (tls.key_file is None):
        raise ConfigError(f"{place}: nats.tls.cert_file and nats.tls.key_file go together", fix="name both, or neither")
    if nats["creds_file"] and nats["nkey_file"]:
        raise ConfigError(f"{place}: nats.creds_file and nats.nkey_file exclude each other", fix="keep one of them")
    if nats["bucket"] == NODES_BUCKET:
        raise ConfigError(f"{place}: nats.bucket is that of the node records", fix=f"name another than {NODES_BUCKET}")
    if len(location := f"KV/{nats['bucket']}/{nats['entry']}") > MAX_LOCATION:
        raise ConfigError(
            f"{place}: nats.bucket and nats.entry are too long together",
            expected=f"KV/<bucket>/<entry> of at most {MAX_LOCATION} characters",
            found=f"{len(location)} characters",
        )
    return NatsConfig(**nats, tls=tls if TLS in settled.sources else None)


def _http(settled: Settled) -> HttpConfig:
    values, place = settled.values, settled.place
    cert, key = values["http.tls.cert_file"], values["http.tls.key_file"]
    if not (cert and key) and any(name.startswith("http.tls") for name in settled.sources):
        fix = "name both, or remove http.tls"
        raise ConfigError(f"{place}: http.tls.cert_file and http.tls.key_file go together", fix=fix)
    for name in ("http.listen", "metrics.listen"):
        listen = values[name]
        if listen is not None and not cert and not is_loopback(listen):
            raise ConfigError(
                f"{place}: {name} leaves this machine without TLS",
                expected="a loopback address, or http.tls",
                found=listen,
                fix="name a certificate in http.tls, or listen at 127.0.0.1 behind a proxy that has one",
            )
    metrics = values["metrics.listen"]
    is_port = metrics is not None and int(metrics.rpartition(":")[2]) > 0  # 0: a free one each, never the same
    if is_port and metrics == values["http.listen"]:
        raise ConfigError(f"{place}: metrics.listen and http.listen are one address", fix="remove metrics.listen")
    return HttpConfig(listen=values["http.listen"], tls=ServerTls(cert, key) if cert else None)


def _socket(settled: Settled) -> SocketConfig:
    values = settled.values
    group, mode = values["socket.group"], values["socket.mode"]
    return SocketConfig(
        path=values["socket.path"] or f"{values['runtime_dir']}/{SOCKET}",
        group=group,
        mode=int(mode or ("0660" if group else "0666"), 8),
        allow=values["socket.allow"],
    )


def _key(settled: Settled) -> KeyConfig:
    alg, bits = settled.values["key.alg"], settled.values["key.bits"]
    if alg in RSA_ALGS:
        return KeyConfig(alg=alg, bits=bits)
    if "key.bits" in settled.sources:
        raise ConfigError(
            f"{settled.place}: key.bits is only for RSA",
            expected=f"key.alg {' or '.join(sorted(RSA_ALGS))}",
            found=f"key.alg {alg}",
            fix="remove key.bits",
        )
    return KeyConfig(alg=alg, bits=None)


def _policy(settled: Settled) -> Policy:
    try:
        return Policy(**{member: settled.values[name] for member, name in POLICY_NAMES.items()})
    except MalformedError as exc:
        fix = "change the policy's times so that its rules hold; they count at genesis only"
        raise ConfigError(f"{settled.place}: {exc.message}", expected=exc.expected, found=exc.found, fix=fix) from None


def _host_name(place: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "-", os.uname().nodename.partition(".")[0])[:_MAX_NODE]
    if not name:
        raise ConfigError(f"{place}: node is missing, and the host has no name", fix="set node")
    return name
