"""The configuration: what is accepted, what is refused and in which words; the schema says the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from keydist.adapters import config_layers
from keydist.adapters.config import (
    MAX_LOCATION,
    AuditConfig,
    Config,
    HttpConfig,
    MetricsConfig,
    NatsConfig,
    ServerTls,
    SocketConfig,
    TlsConfig,
    describe,
    json_schema,
)
from keydist.adapters.config_credentials import NAMES, CredentialRule, is_allowed, parse_credentials
from keydist.adapters.config_hooks import Hook, parse_hooks
from keydist.adapters.config_schema import FIELDS, POLICY_NAMES, RSA_ALGS, SECTIONS, kind_of
from keydist.adapters.config_serve import MintRule, Rule, parse_rules
from keydist.core import crypto, envelope
from keydist.core.policy import MEMBERS, Policy
from keydist.errors import ConfigError
from tests.unit.config_cases import BAD, BAD_FOR_THE_LOADER, FULL, GOOD, SECRETS, load, value_of


def test_every_field_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert config == Config(
        cluster="prod-eu1",
        node="node-a",
        role="leader",
        issuer="https://prod-eu1.example",
        token_file="/etc/keydist/token",
        state_dir="/var/lib/keydist/a",
        runtime_dir=f"{tmp_path}/run",
        group="keydist-readers",
        at_rest="sealed",
        nats=NatsConfig(
            servers=("nats://127.0.0.1:4222", "tls://nats-2.example"),
            bucket="keys",
            entry="prod/signing.key",
            creds_file=f"{tmp_path}/../nats.creds",
            nkey_file=None,
            tls=TlsConfig(f"{tmp_path}/ca.pem", f"{tmp_path}/node.pem", f"{tmp_path}/node.key"),
        ),
        key=config.key,
        bootstrap_timeout=90.0,
        policy=Policy(propagation=1800, skew=10, rotate_every=1_209_600, max_tokens_per_key=1000),
        lineage="00112233445566778899aabbccddeeff",
        heartbeat=15,
        resync=20,
        rehearse_every=604_800,
        http=HttpConfig("0.0.0.0:8443", ServerTls(f"{tmp_path}/web.pem", f"{tmp_path}/web.key")),
        metrics=MetricsConfig("127.0.0.1:9100"),
        socket=SocketConfig(
            path=f"{tmp_path}/run/keydist.sock",
            group="apps",
            mode=0o666,
            allow=(
                Rule(("web",), ("app",), MintRule(("orders-*",), ("orders",), ("i",), 3600)),
                Rule((), ("ops",), MintRule(("*",), ("a", "b"))),
            ),
        ),
        hooks=(
            Hook(on="jwks", run=("/usr/local/bin/reload", "--now", ""), timeout=60, retries=0),
            Hook(on="key", signal="HUP", unit="nginx.service", timeout=30, retries=3),
        ),
        credentials=(
            CredentialRule(unit="web.service", names=("signing-key", "jwks")),
            CredentialRule(unit="web@*.service", names=("jwks",)),
        ),
        audit=AuditConfig(stream=False, mints=True),
    )
    assert (config.key.alg, config.key.bits) == ("PS256", 4096)


def test_a_bare_on_is_the_name_of_a_member(tmp_path: Path) -> None:
    assert load(tmp_path, "cluster: c\nhooks: [{on: jwks, run: [/a]}]").hooks == (Hook(on="jwks", run=("/a",)),)
    with pytest.raises(ConfigError, match=r"key on stands twice in hooks\[0\]"):
        load(tmp_path, "cluster: c\nhooks: [{on: jwks, 'on': key, run: [/a]}]")


def test_lists_of_mappings_are_shown_as_the_file_has_them(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    rows = {name: value for name, value, _ in describe(str(tmp_path / "keydist.yaml"), environ={}, overrides={})}
    assert rows["hooks"] == [
        {"on": "jwks", "run": ["/usr/local/bin/reload", "--now", ""], "timeout": "1m", "retries": 0},
        {"on": "key", "signal": "HUP", "unit": "nginx.service", "timeout": "30s", "retries": 3},
    ]
    assert parse_hooks(rows["hooks"]) == config.hooks
    assert parse_credentials(rows["credentials"]) == config.credentials


def test_a_list_of_mappings_has_a_bound() -> None:
    with pytest.raises(ConfigError, match=r"has too many entries .*expected at most 256, found 257"):
        parse_credentials([{"unit": f"a{number}.service", "names": ["jwks"]} for number in range(257)])


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("web.service", {"signing-key", "jwks"}),
        ("webb.service", set()),
        ("web@a.service", {"jwks"}),
        ("web@a@b.service", {"jwks"}),
        ("web@.service", set()),
        ("other@a.service", set()),
    ],
)
def test_a_unit_takes_what_a_rule_names_for_it_or_for_its_template(tmp_path: Path, unit: str, names: set[str]) -> None:
    rules = load(tmp_path, FULL).credentials
    assert {name for name in (*NAMES, "token", "") if is_allowed(rules, unit, name)} == names


def test_rules_of_the_socket_are_shown_as_the_file_has_them(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    rows = {name: value for name, value, _ in describe(str(tmp_path / "keydist.yaml"), environ={}, overrides={})}
    assert rows["socket.allow"] == [
        {
            "users": ["web"],
            "groups": ["app"],
            "mint": {"subjects": ["orders-*"], "audiences": ["orders"], "issuers": ["i"], "lifetime": "1h"},
        },
        {"groups": ["ops"], "mint": {"subjects": ["*"], "audiences": ["a", "b"], "lifetime": "15m"}},
    ]
    assert parse_rules(rows["socket.allow"]) == config.socket.allow


@pytest.mark.parametrize("argument", ["\ud800", "\0", "x" * 4097])
def test_an_argument_that_no_process_can_be_given_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match="entry 1: run has an impossible argument"):
        parse_hooks([{"run": ["/a", argument]}])


def test_a_configuration_without_lists_of_mappings_does_not_load_their_parsers(tmp_path: Path) -> None:
    load(tmp_path, "cluster: c")
    program = (
        "import sys; from keydist.adapters.config import load_config as l; l(sys.argv[1], environ={}, overrides={})"
    )
    program += "; sys.exit(any(f'keydist.adapters.config_{name}' in sys.modules for name in ('hooks', 'credentials')))"
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "keydist.yaml")], check=False).returncode == 0


def test_the_cluster_alone_is_enough(tmp_path: Path) -> None:
    config = load(tmp_path, "cluster: prod")
    assert config.nats == NatsConfig(("nats://127.0.0.1:4222",), "keydist", "signing-key", None, None, None)
    assert (config.role, config.at_rest, config.key.bits, config.policy) == ("follower", "plain", 3072, Policy())


@pytest.mark.parametrize(("text", "name", "expected"), GOOD, ids=[case[0] for case in GOOD])
def test_accepted(tmp_path: Path, text: str, name: str, expected: object) -> None:
    assert value_of(load(tmp_path, f"cluster: c\n{text}"), name) == expected
    assert list(violations(json_schema(), yaml.safe_load(f"cluster: c\n{text}"))) == []


@pytest.mark.parametrize(("host", "node"), [("web-1.example.org", "web-1"), ("wéb!1", "w-b-1"), ("x" * 80, "x" * 64)])
def test_the_node_is_named_after_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, node: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", host, "", "", "")))
    assert load(tmp_path, "cluster: c").node == load(tmp_path, "cluster: c\nnode:").node == node
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "", "", "")))
    with pytest.raises(ConfigError, match="the host has no name"):
        load(tmp_path, "cluster: c")


@pytest.mark.parametrize(("text", "words"), BAD + BAD_FOR_THE_LOADER, ids=[c[0] for c in BAD + BAD_FOR_THE_LOADER])
def test_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(tmp_path, f"cluster: c\n{text}")
    assert str(tmp_path / "keydist.yaml") in str(caught.value)
    assert caught.value.__cause__ is None
    schema_refuses = (text, words) in BAD
    assert bool(list(violations(json_schema(), yaml.safe_load(f"cluster: c\n{text}")))) is schema_refuses


@pytest.mark.parametrize(("text", "secret"), SECRETS, ids=[case[0] for case in SECRETS])
def test_no_secret_is_repeated(tmp_path: Path, text: str, secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"cluster: c\n{text.format(secret)}")
    assert secret not in f"{caught.value!s} {caught.value.as_json()}"


# --- the table ------------------------------------------------------------------------------------


def violations(schema: Mapping[str, Any], value: object) -> Iterator[str]:
    """Yield what the schema refuses in a value: as much of JSON Schema as the schema uses."""
    kinds = {"null": "nothing", "string": "text", "object": "a mapping", "array": "a list", "integer": "an integer"}
    kinds["boolean"] = "a boolean"
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if kind_of(value) not in [kinds[name] for name in types]:
        yield "type"
    elif isinstance(value, dict) and "properties" in schema:
        yield from violations_of_members(schema, value)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield "items"
        if schema.get("uniqueItems") and any(value.count(item) > 1 for item in value):
            yield "uniqueItems"
        first = schema.get("prefixItems", [])
        for item, rule in zip(value, [*first, *[schema["items"]] * len(value)], strict=False):
            yield from violations(rule, item)
    elif value is not None:
        yield from violations_of_scalar(schema, value)


def violations_of_scalar(schema: Mapping[str, Any], value: Any) -> Iterator[str]:  # noqa: ANN401
    if value not in schema.get("enum", [value]):
        yield "enum"
    if isinstance(value, str) and not re.fullmatch(schema.get("pattern", ".*"), value):
        yield "pattern"
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield "length"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield "range"


def violations_of_members(schema: Mapping[str, Any], value: Mapping[str, object]) -> Iterator[str]:
    yield from value.keys() - schema["properties"].keys()
    yield from set(schema.get("required", ())) - value.keys()
    yield from {need for key in value for need in schema.get("dependentRequired", {}).get(key, ())} - value.keys()
    if sum(set(one["required"]) <= value.keys() for one in schema.get("oneOf", [{"required": ()}])) != 1:
        yield "oneOf"
    for name in value.keys() & schema["properties"].keys():
        yield from violations(schema["properties"][name], value[name])


def test_the_schema_and_the_loader_are_one_table(tmp_path: Path) -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(violations(schema, yaml.safe_load(FULL))) == []
    assert list(violations(schema, {})) == ["cluster"]
    leaves: dict[str, Any] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        assert node["additionalProperties"] is False
        for name, child in node["properties"].items():
            assert child["description"].endswith(".")
            if "properties" in child:
                assert f"{prefix}{name}" in SECTIONS
                walk(child, f"{prefix}{name}.")
            else:
                leaves[f"{prefix}{name}"] = child

    walk(schema, "")
    assert leaves.keys() == {field.name for field in FIELDS}
    config = load(tmp_path, "cluster: c")
    for name, leaf in leaves.items():
        if name not in {"cluster", "node", "socket.path", "socket.mode"} and not name.startswith(
            ("nats.tls.", "http.tls.")
        ):
            default = leaf.get("default")
            assert value_of(config, name) == (tuple(default) if isinstance(default, list) else default), name
            assert default is None or list(violations(leaf, default)) == [], name


def test_what_the_core_fixes_stands_here_too() -> None:
    assert tuple(POLICY_NAMES) == MEMBERS
    assert set(json_schema()["properties"]["key"]["properties"]["alg"]["enum"]) == crypto.SIGNING_ALGS
    assert RSA_ALGS == crypto.RSA_ALGS
    bits = json_schema()["properties"]["key"]["properties"]["bits"]["enum"]
    assert (min(bits), max(bits)) == crypto.RSA_BITS
    assert MAX_LOCATION == envelope.MAX_LOCATION
    assert len(config_layers._VARIABLES) == len(FIELDS) - 1, "each field but the token's has a variable of its own"
