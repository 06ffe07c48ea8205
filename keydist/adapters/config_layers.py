"""Settle each field from the layers that set it: flag, then environment, then file, then default.

No key and no variable goes unnoticed that can only be mistyped: a mistyped `tls` must never mean plain text, and
neither may an empty one. Relative paths in the file are relative to its directory; those of flags and of the
environment, to the working directory. Every layer is checked, also where a later one wins. Raises `ConfigError`.
"""

# os.path and not pathlib, which would cost milliseconds of every start:
# ruff: noqa: PTH109, PTH117, PTH118, PTH120

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from keydist.adapters.config_schema import FIELDS, PATH, POLICY_NAMES, SECTIONS, TLS_SECTIONS, kind_of
from keydist.adapters.config_yaml import printable, read_mapping
from keydist.errors import ConfigError

DEFAULT_PATH: Final = "/etc/keydist/keydist.yaml"
TLS: Final = "nats.tls"

_BY_NAME: Final = {field.name: field for field in FIELDS}
_PREFIX: Final = "KEYDIST_"
_READ_ELSEWHERE: Final = (f"{_PREFIX}CONFIG", f"{_PREFIX}TOKEN_FILE")
_VARIABLES: Final = {_PREFIX + name.upper().replace(".", "_"): name for name in _BY_NAME if name != "token_file"}
_OWN_VARIABLES: Final = (f"{_PREFIX}TLS", *(f"{_PREFIX}{name.upper()}_" for name in SECTIONS if "." not in name))
_SERVICE_LINKS: Final = ("_SERVICE_HOST_", "_SERVICE_PORT_", "_PORT_")
"""What Kubernetes puts into the environment of containers for a Service named keydist, or keydist-nats."""
_MAX_GUESSED: Final = 64


class Settled(NamedTuple):
    """The place to blame, each field's value, and the layer of what was set; of `nats.tls` too, if asked for."""

    place: str
    values: dict[str, Any]
    sources: dict[str, str]


class _Layer(NamedTuple):
    source: str
    place: str
    base: str = ""


def settle(path: str | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Settled:
    """Return what the layers say; `path` is the flag's, `flags` go by dotted name. Raises `ConfigError`."""
    _check_environment(environ)
    named = environ.get(f"{_PREFIX}CONFIG") if path is None else path
    file = DEFAULT_PATH if named is None else named
    document = read_mapping(file, may_be_missing=named is None)
    place = "the environment" if document is None else printable(file)
    settled = Settled(place, {field.name: field.default for field in FIELDS}, {})
    if document is not None:
        layer = _Layer("file", place, os.path.dirname(file))
        for name, value in _flatten(document, "", place):
            _set(settled, name, value, layer)
    for variable, name in _VARIABLES.items():
        if variable in environ:
            _set_text(settled, name, environ[variable], _Layer("environment", variable))
    for name, text in flags.items():
        if name not in _BY_NAME:
            raise _unknown(name, "the command line")
        _set_text(settled, name, text, _Layer("flag", "the command line"))
    if TLS not in settled.sources and any(server.startswith("tls://") for server in settled.values["nats.servers"]):
        settled.sources[TLS] = settled.sources["nats.servers"]
    return settled


def _flatten(members: Mapping[str, Any], prefix: str, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves, and the sections that are mappings, by dotted name."""
    for key, value in members.items():
        name = f"{prefix}{key}"
        if "." in key or (name not in _BY_NAME and name not in SECTIONS):
            raise _unknown(name, place)
        if name in _BY_NAME:
            yield name, value
        elif isinstance(value, dict):
            yield name, value
            yield from _flatten(value, f"{name}.", place)
        elif value is not None:
            raise ConfigError(f"{place}: {name} is not a mapping", expected="a mapping", found=kind_of(value))
        elif name in TLS_SECTIONS:
            system = "name ca_file in it, write {} to trust the system's CAs, or remove it"
            raise ConfigError(
                f"{place}: {name} is empty, and must not be taken for plain text",
                expected="a mapping",
                fix=system if name == TLS else "name cert_file and key_file in it, or remove it",
            )


def _set(settled: Settled, name: str, value: object, layer: _Layer) -> None:
    label = f"{layer.place}: {name}"
    if field := _BY_NAME.get(name):
        if value == "" and field.empty_is_off:
            value = None
        if value is None and field.nullable:
            return
        if value is None and not field.empty_is_off:
            raise ConfigError(f"{label} is empty", expected="a value", fix="give it a value, or remove it")
        try:
            parsed = None if value is None else field.shape.parse(value)
            settled.values[name] = _absolute(str(parsed), layer.base) if field.shape is PATH else parsed
        except ConfigError as exc:
            raise ConfigError(f"{label} {exc.message}", expected=exc.expected, found=exc.found, fix=exc.fix) from None
    settled.sources[name] = layer.source
    if name.startswith(TLS):
        settled.sources[TLS] = layer.source


def _set_text(settled: Settled, name: str, text: str, layer: _Layer) -> None:
    if not text:
        fix = "give it a value, or do not set it at all"
        raise ConfigError(f"{layer.place}: {name} is empty", expected="a value", fix=fix)
    _set(settled, name, _BY_NAME[name].shape.from_text(text), layer)


def _absolute(text: str, base: str) -> str:
    path = os.path.join(base, text)
    if not os.path.isabs(path):
        try:
            path = os.path.join(os.getcwd(), path)
        except OSError as exc:
            found = (exc.strerror or "").lower()
            raise ConfigError("is relative, and the working directory is gone", found=found) from None
    return path if ".." in path.split("/") else os.path.normpath(path)  # what follows a link is not for us to shorten


def _check_environment(environ: Mapping[str, str]) -> None:
    """Refuse a token as a value, and names that can only be mistyped; others are somebody else's."""
    if f"{_PREFIX}TOKEN" in environ:
        raise ConfigError(
            "KEYDIST_TOKEN is set: a token must never be an environment value",
            expected="KEYDIST_TOKEN_FILE, the path of a file that holds it",
            found="KEYDIST_TOKEN, its value not shown",
            fix="unset it, and replace that token: others may have read it there",
        )
    for name in environ:
        if name.startswith(_PREFIX) and name not in _VARIABLES and name not in _READ_ELSEWHERE:
            _check_variable(name)


def _check_variable(name: str) -> None:
    if any(mark in f"{name}_" for mark in _SERVICE_LINKS):
        return
    known = {variable.removeprefix(_PREFIX): variable for variable in (*_VARIABLES, *_READ_ELSEWHERE)}
    near = nearest(name.removeprefix(_PREFIX), known, cutoff=0.8)
    if near or name.startswith(_OWN_VARIABLES):
        fix = f"did you mean {known[near]}?" if near else "unset it; `keydist config show` lists the names"
        raise ConfigError(f"unknown environment variable {printable(name)}", fix=fix)


def nearest(name: str, known: Iterable[str], *, cutoff: float) -> str | None:
    """Return the known name that was most likely meant, if any is near."""
    import difflib  # noqa: PLC0415 - 3 ms, and only for a name that is not known

    return next(iter(difflib.get_close_matches(name[:_MAX_GUESSED], known, n=1, cutoff=cutoff)), None)


def _unknown(name: str, place: str) -> ConfigError:
    """Return the refusal of a key, naming the key that was meant: the same elsewhere, the nearest here or anywhere."""
    parent, _, leaf = name.rpartition(".")
    known = (*_BY_NAME, *SECTIONS)
    beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    near = next((other for other in known if other.rpartition(".")[2] == leaf), None) or POLICY_NAMES.get(leaf)
    near = near or beside.get(nearest(leaf, beside, cutoff=0.6) or "")
    near = near or nearest(name, [other for other in known if not name.startswith(f"{other}.")], cutoff=0.7)
    fix = f"did you mean {near}?" if near else f"the keys known here are {', '.join(beside)}"
    if name in known:
        fix = "write it nested, one level for each dot"
    return ConfigError(f"{place}: unknown key {printable(name)}", fix=fix)
