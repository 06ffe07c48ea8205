"""The files of a state directory, the configuration, and what people and other programs of the machine give."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from fuzz.of_core import HELD, KEY
from fuzz.of_peers import address
from fuzz.target import Target, as_file, as_text, each, same
from keydist.adapters.config import load_config
from keydist.adapters.config_credentials import parse_credentials
from keydist.adapters.config_hooks import parse_hooks
from keydist.adapters.config_serve import parse_rules
from keydist.adapters.credentials_socket import parse_address
from keydist.adapters.disk.archive import ENVELOPE, JWKS, PEM, PLAINTEXT, SUMS, open_files, render
from keydist.adapters.disk.records import (
    format_confirmation,
    format_floor,
    format_notes,
    format_override,
    format_start,
    format_sums,
    parse_confirmation,
    parse_floor,
    parse_notes,
    parse_override,
    parse_start,
)
from keydist.adapters.doctor.units import parse_exposures, parse_show
from keydist.adapters.duration import format_duration, parse_duration
from keydist.adapters.hook_record import _parse as parse_told
from keydist.adapters.mints import format_mints, parse_mints
from keydist.adapters.trail.journal import _parse_shipped as parse_shipped
from keydist.adapters.trail.spool import _parse as parse_spool
from keydist.cli.addresses import homes, listening_port, named_servers, servers_of_urls
from keydist.cli.audit import _since
from keydist.cli.policy import _parse as parse_settings
from keydist.cli.store_config import _named
from keydist.cli.times import parse_time
from keydist.core.accept import Demands
from keydist.core.audit import Mint, mint_json
from keydist.core.audit_record import parse_mint
from keydist.core.local import Confirmation, Start
from keydist.core.record import Minted
from keydist.core.strict import serialise
from keydist.errors import KeydistError
from tests.material import NOW, PLACE, TOKEN, floor_of, notes_of
from tests.unit.audit_material import mint

_FILES: Final = (ENVELOPE, JWKS, PLAINTEXT, PEM)
_APART: Final = b"\xff"
_OWN: Final = render(HELD, sealed=False)


def _archive(raw: bytes) -> None:
    """Open an archive's files, apart by a byte that none of them has: without checksums, then with fitting ones."""
    files = dict(zip(_FILES, raw.split(_APART), strict=False))
    demands = Demands(place=PLACE, tokens=(TOKEN,))
    with suppress(KeydistError):
        open_files(files, demands)
        assert files.items() <= _OWN.items(), "what no checksum vouches for fits together"
    with suppress(KeydistError):
        open_files({**files, SUMS: format_sums(files)}, demands)


def _written(minted: Mint) -> bytes:
    return serialise(mint_json(minted))


def _config(raw: bytes) -> None:
    load_config(as_file(raw), environ={}, overrides={})


def _environment(text: str) -> None:
    lines = (line.partition("=") for line in text.split("\n"))
    load_config(as_file(b"cluster: c\n"), environ={name: value for name, _, value in lines}, overrides={})


def _entries(raw: bytes) -> None:
    """Parse lists of the configuration; what is taken is told as what is taken as the same."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return
    parsers: tuple[Callable[[Any], tuple[Any, ...]], ...] = (parse_rules, parse_credentials, parse_hooks)
    for parse in parsers:
        with suppress(KeydistError):
            taken = parse(value)
            assert parse([entry.as_mapping() for entry in taken]) == taken


def _time(text: str) -> None:
    for parse in (parse_time, _since):
        with suppress(KeydistError):
            assert isinstance(parse(text, now=NOW), int)
    with suppress(KeydistError):
        assert all(value >= 0 for value in parse_settings(text.split("\n")).values())
    with suppress(KeydistError):
        assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)


def _store_config(text: str) -> None:
    lines = text.split("\n")
    with suppress(KeydistError):
        _named(lines)
    with suppress(KeydistError):
        named_servers(lines, port=4222)
    with suppress(KeydistError):
        servers_of_urls(tuple(lines), port=4222)
    with suppress(KeydistError):
        homes(lines, port=7422)
    assert 1 <= listening_port("--listen", text) <= 65_535


def _units(text: str) -> None:
    assert all(len(unit.name) <= 256 for unit in parse_show(text))
    assert all(0 <= value < 100 for value in parse_exposures(text).values())


_YAML: Final = b"""\
cluster: c
node: n
role: leader
token_file: /t
nats: {servers: ['nats://127.0.0.1:4222', "tls://[::1]:4222"], tls: {ca_file: /ca}}
hooks: [{"on": key, run: [/bin/true], timeout: 5s}]
socket: {mode: "0660", allow: [{users: [u], mint: {subjects: ["a-*"], audiences: [b], lifetime: 15m}}]}
policy: {propagation: 900s, max_lifetime: 1d}
rotation: {every: 30d}
"""
_SHOWN: Final = b"""\
Id=keydist-agent.service
LoadState=loaded
WatchdogUSec=30s

Id=keydist-ready.target
LoadState=not-found
\xe2\x86\x92 Overall exposure level for keydist-agent.service: 1.4 OK
"""

TARGETS: Final[dict[str, Target]] = {
    "archive": Target(
        _archive, (_APART.join(_OWN[name] for name in _FILES), _APART.join(_OWN[name] for name in _FILES[:2]))
    ),
    "state records": Target(
        each(
            same(parse_floor, format_floor),
            same(parse_confirmation, format_confirmation),
            same(parse_notes, format_notes),
            same(parse_start, format_start),
            same(parse_override, format_override),
        ),
        (
            format_floor(floor_of(HELD, revoked=frozenset({KEY.kid}))),
            format_confirmation(Confirmation(epoch=1, digest=HELD.digest, at=NOW)),
            format_notes(notes_of(HELD)),
            format_start(Start(instance="0" * 32, number=NOW)),
            format_override(HELD.digest),
        ),
    ),
    "other records": Target(
        each(same(parse_mints, format_mints), same(parse_mint, _written), parse_spool, parse_shipped, parse_told),
        (
            format_mints({KEY.kid: Minted(3, NOW)}),
            _written(mint(1)),
            _written(mint(1)) + b'\n{"left_out":3}\n',
            b'{"chain":"00112233aabbccdd","hash":"' + b"A" * 43 + b'","seq":3}',
            b'{"told":{"' + b"0" * 64 + b'":"mark"}}',
        ),
    ),
    "configuration": Target(_config, (_YAML,), refused=(b"a: &x [1]\nb: !!str 2\n? c\n: d\n",)),
    "environment": Target(as_text(_environment), (b"KEYDIST_NATS_SERVERS=nats://a:1,tls://b\nKEYDIST_NODE=n\nPATH=/",)),
    "entries": Target(
        _entries,
        (
            b'[{"users":["u"],"groups":["g"],"mint":{"subjects":["a-*"],"audiences":["b"],"lifetime":"15m"}}]',
            b'[{"unit":"web@*.service","names":["jwks","signing-key"]}]',
            b'[{"on":"key","run":["/bin/true","a"],"timeout":"5s","retries":2},{"signal":"HUP","unit":"a.service"}]',
        ),
    ),
    "credential": Target(parse_address, (b"\0adf9d86b6eda275e/unit/foobar.service/signing-key",)),
    "text": Target(
        each(*map(as_text, (_time, _store_config, address, _units))),
        (
            *(b"+30d", b"2026-03-01T12:00:00Z", b"1800000000", b"15m", b"rotate_every=14d\nmax_tokens_per_key=5"),
            *(b"0.0.0.0:4222", b"{host}:4222", b"a=h:1\nb", b"nats://h:4222\ntls://[::1]", b"http://127.0.0.1:8222"),
            _SHOWN,
        ),
    ),
}
