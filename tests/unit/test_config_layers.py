"""Where the configuration comes from: which file, which layer wins, whose directory a path belongs to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keydist.adapters import config_layers
from keydist.adapters.config import describe, load_config
from keydist.adapters.config_schema import FIELDS
from keydist.errors import ConfigError
from tests.unit.config_cases import TOKEN, load

# --- the file -------------------------------------------------------------------------------------


def test_a_named_file_must_be_there_and_be_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in [
        (f"{tmp_path}/none", "none cannot be read .*no such file .*--config or KEYDIST_CONFIG"),
        (f"{tmp_path}", "is not a regular file"),
        (f"{tmp_path}/pipe", "is not a regular file"),
        (f"{tmp_path}/a\0b", r"a\\x00b' cannot be read .*no possible name"),
        ("", "'' cannot be read"),
    ]:
        for path, environ in ((name, {}), (None, {"KEYDIST_CONFIG": name})):
            with pytest.raises(ConfigError, match=words):
                load_config(path, environ={"KEYDIST_CLUSTER": "c", **environ}, overrides={})


def test_the_file_is_the_flags_then_the_environments_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flag", "environment", "default"):
        (tmp_path / name).write_text(f"cluster: {name}")
    monkeypatch.setattr(config_layers, "DEFAULT_PATH", str(tmp_path / "default"))
    environ = {"KEYDIST_CONFIG": str(tmp_path / "environment")}
    assert load_config(str(tmp_path / "flag"), environ=environ, overrides={}).cluster == "flag"
    assert load_config(None, environ=environ, overrides={}).cluster == "environment"
    assert load_config(None, environ={}, overrides={}).cluster == "default"
    (tmp_path / "default").unlink()
    assert load_config(None, environ={"KEYDIST_CLUSTER": "c"}, overrides={}).cluster == "c"
    with pytest.raises(ConfigError, match="the environment: cluster is missing"):
        load_config(None, environ={}, overrides={})


def test_relative_paths_belong_to_who_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keydist.yaml"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file.write_text("cluster: c\nstate_dir: state\nruntime_dir: run\nnats: {creds_file: a}")
    config = load_config(
        "../keydist.yaml", environ={"KEYDIST_RUNTIME_DIR": "run"}, overrides={"nats.creds_file": "./b"}
    )
    assert config.state_dir == f"{tmp_path}/here/../state"
    assert config.runtime_dir == f"{tmp_path}/here/run"
    assert config.nats.creds_file == f"{tmp_path}/here/b"
    (tmp_path / "here").rmdir()
    with pytest.raises(ConfigError, match="runtime_dir is relative, and the working directory is gone"):
        load_config(str(file), environ={"KEYDIST_RUNTIME_DIR": "run"}, overrides={})


# --- layers ---------------------------------------------------------------------------------------


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    text = "cluster: file\nnode: file\nrole: leader\ntoken_file: /file"
    environ = {
        "KEYDIST_NODE": "environment",
        "KEYDIST_ROLE": "follower",
        "KEYDIST_TOKEN_FILE": "/environment",
        "KEYDIST_NATS_SERVERS": "nats://a, nats://b",
        "KEYDIST_POLICY_MAX_LIFETIME": "2d",
        "KEYDIST_ROTATION_MAX_TOKENS_PER_KEY": "7",
        "KEYDIST_KEY_BITS": "2048",
    }
    flags = {"node": "flag", "bootstrap.timeout": "5"}
    config = load(tmp_path, text, environ, **flags)
    assert (config.cluster, config.node, config.role, config.bootstrap_timeout) == ("file", "flag", "follower", 5.0)
    assert (config.nats.servers, config.key.bits) == (("nats://a", "nats://b"), 2048)
    assert (config.policy.max_lifetime, config.policy.max_tokens_per_key) == (172_800, 7)
    assert config.token_file == "/file", "the environment's has its own place in the search for the token"

    rows = describe(str(tmp_path / "keydist.yaml"), environ=environ, overrides=flags)
    assert [row[0] for row in rows if row[0] != "nats.tls"] == [field.name for field in FIELDS]
    sources = {name: (value, source) for name, value, source in rows}
    assert sources["cluster"] == ("file", "file")
    assert sources["node"] == ("flag", "flag")
    assert sources["role"] == ("follower", "environment")
    assert sources["state_dir"] == ("/var/lib/keydist", "default")
    assert sources["nats.tls"] == (False, "default")


@pytest.mark.parametrize(
    ("text", "environ", "source"),
    [
        ("nats: {tls: {}}", {}, "file"),
        ("nats: {servers: ['tls://a']}", {}, "file"),
        ("", {"KEYDIST_NATS_SERVERS": "tls://a"}, "environment"),
        ("nats: {tls: {}}", {"KEYDIST_NATS_TLS_CA_FILE": "/ca"}, "environment"),
    ],
    ids=["section", "address", "address in the environment", "both"],
)
def test_describe_says_what_asked_for_tls(tmp_path: Path, text: str, environ: dict[str, str], source: str) -> None:
    file = tmp_path / "keydist.yaml"
    file.write_text(f"cluster: c\nkey: {{alg: ES256}}\n{text}")
    rows = describe(str(file), environ=environ, overrides={})
    assert ("nats.tls", True, source) in rows
    assert ("key.bits", None, "default") in rows
    assert load_config(str(file), environ=environ, overrides={}).nats.tls is not None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"KEYDIST_TOKEN": TOKEN}, "KEYDIST_TOKEN is set: a token must never .*KEYDIST_TOKEN_FILE"),
        ({"KEYDIST_TOKEN": ""}, "KEYDIST_TOKEN is set"),
        ({"KEYDIST_NATS_TSL_CA_FILE": "/x"}, r"did you mean KEYDIST_NATS_TLS_CA_FILE\?"),
        ({"KEYDIST_TOKEN_FILES": "/x"}, r"did you mean KEYDIST_TOKEN_FILE\?"),
        ({"KEYDIST_NATS_TLS": "yes"}, "unknown environment variable KEYDIST_NATS_TLS; unset it"),
        ({"KEYDIST_TLS": "yes"}, "unknown environment variable KEYDIST_TLS"),
        ({"KEYDIST_NATS_TLS_CA_FILE": ""}, "KEYDIST_NATS_TLS_CA_FILE: nats.tls.ca_file is empty"),
        ({"KEYDIST_NATS_SERVERS": "nats://a,"}, "KEYDIST_NATS_SERVERS: nats.servers has a server"),
        ({"KEYDIST_KEY_BITS": "many"}, "KEYDIST_KEY_BITS: key.bits is not an integer"),
        ({"KEYDIST_HOOKS": "[]"}, "KEYDIST_HOOKS: hooks is not a list of mappings .*in the file"),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) else "",
)
def test_environment_refused(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(tmp_path, "cluster: c", environ)
    assert TOKEN not in str(caught.value.as_json())


def test_other_programs_variables_are_left_alone(tmp_path: Path) -> None:
    ports = [
        "KEYDIST_PORT",
        "KEYDIST_NATS_SERVICE_HOST",
        "KEYDIST_NATS_PORT_4222_TCP_ADDR",
        "KEYDIST_NATS_SERVICE_PORT",
    ]
    assert load(tmp_path, "cluster: c", dict.fromkeys([*ports, "KEYDIST_BACKUP_TARGET", "PATH"], "x")).cluster == "c"


def test_flags_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the command line: unknown key rol; did you mean role\?"):
        load(tmp_path, "cluster: c", {}, rol="leader")
    with pytest.raises(ConfigError, match="the command line: role is empty"):
        load(tmp_path, "cluster: c", {}, role="")
