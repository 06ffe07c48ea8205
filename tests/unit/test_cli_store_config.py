"""`keydist store config`: what it writes and where, what it takes up, what it never overwrites, what it refuses."""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from keydist.adapters import file_set
from keydist.adapters.config import load_config
from keydist.adapters.nats.credentials import new_seed, public_nkey
from keydist.errors import DiskError
from tests.material import noise
from tests.unit.cli_node import CliNode

COMPOSE = Path(__file__).parents[2] / "docker-compose.nats.yml"


def seed_of(name: str) -> str:
    return new_seed(lambda size: noise(name, size))


LEAD, NODE, OP = (public_nkey(seed_of(name)) for name in ("lead", "node", "op"))
NAMED = ("--leader", f"lead-1={LEAD}", "--follower", f"node-a={NODE}", "--operator", f"operator={OP}")
DEV_FILES = {
    "README", "ca/server-ca.key", "ca/server-ca.pem", "ca/client-ca.key", "ca/client-ca.pem",
    *(f"nats-{n}/{name}" for n in (1, 2, 3)
      for name in ("nats-server.conf", "server.key", "server.pem", "server-ca.pem", "client-ca.pem")),
    *(f"{user}/{name}" for user in ("operator", "lead-1", "node-a", "node-b")
      for name in ("user.nk", "client.key", "client.pem", "server-ca.pem", "keydist.yaml")),
}  # fmt: skip


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# --- to standard output ---------------------------------------------------------------------------


def test_one_servers_configuration_is_printed_and_holds_the_nodes_bucket(node: CliNode) -> None:
    node.configure(nats={"servers": ["tls://nats-1.example:4333"], "bucket": "keys", "entry": "jwt.key"})
    answer = node.run("store", "config", *NAMED)
    assert (answer.code, answer.err) == (0, "")
    assert 'server_name: "nats-1.example"' in answer.out
    assert all(f'nkey: "{nkey}"' in answer.out for nkey in (LEAD, NODE, OP))
    assert '"$KV.keys.jwt.key"  # writes the keyset, by compare-and-set' in answer.out
    assert 'sync_interval: "always"' in answer.out
    assert "handshake_first: true" in answer.out
    assert "cluster:" not in answer.out
    as_json = node.run("store", "config", *NAMED, "--json").json
    assert as_json == {"server": "nats-1.example", "configuration": answer.out, "changed": False}


def test_every_permission_of_the_first_of_a_role_has_its_reason(node: CliNode) -> None:
    text = node.run("store", "config", *NAMED).out
    subjects = [line for line in text.splitlines() if line.startswith(" " * 12 + '"')]
    assert len(subjects) > 30
    assert [line for line in subjects if '"  # ' not in line] == []


def test_without_client_certificates_clients_are_not_asked_for_one_but_servers_are(node: CliNode) -> None:
    both = node.run("store", "config", *NAMED).out
    text = node.run("store", "config", *NAMED, "--no-client-certificates").out
    assert "client-ca.pem" in both
    assert "client-ca.pem" not in text
    assert "handshake_first: true" in text
    assert "verify: true" not in text


# --- files ----------------------------------------------------------------------------------------


def test_servers_give_up_a_peer_that_is_cut_off_before_long(node: CliNode, out: Path) -> None:
    """By default it takes minutes, and until then a part of all direct gets goes to it."""
    node.run("store", "config", "--out", str(out), *NAMED, "--server", "n1", "--server", "n2")
    for name in ("n1", "n2"):
        cluster = (out / name / "nats-server.conf").read_text("utf-8").partition("cluster: {")[2]
        found = dict(re.findall(r'^  (ping_\w+): "?(\d+)', cluster, re.MULTILINE))
        assert int(found["ping_interval"]) * (int(found["ping_max"]) + 1) <= 6


def test_only_the_configurations_are_written_unless_seeds_are_asked_for(node: CliNode, out: Path) -> None:
    servers = ("--server", "n1", "--server", "n2")
    answer = node.run("store", "config", "--out", str(out), *NAMED, *servers, "--json")
    assert set(files(out)) == {"n1/nats-server.conf", "n2/nats-server.conf"}
    assert answer.json["changed"]
    assert b'routes: ["tls://n2:6222"]' in files(out)["n1/nats-server.conf"]
    again = node.run("store", "config", "--out", str(out), *NAMED, *servers, "--json")
    assert {file["state"] for file in again.json["files"]} == {"same"}
    assert not again.json["changed"]


def test_seeds_are_made_where_asked_for_and_tell_the_nkeys(node: CliNode, out: Path) -> None:
    arguments = ("store", "config", "--out", str(out), "--leader", "lead-1", "--follower", f"node-a={NODE}")
    refused = node.run(*arguments, "--json")
    assert (refused.code, refused.error["code"]) == (2, "usage")
    assert "--seeds" in refused.error["fix"]
    assert not out.exists()
    assert node.run(*arguments, "--seeds").code == 0
    held = files(out)
    assert set(held) == {"lead-1/user.nk", "operator/user.nk", "127.0.0.1/nats-server.conf"}
    for name in ("lead-1", "operator"):
        assert stat.S_IMODE((out / name / "user.nk").stat().st_mode) == 0o600
        assert public_nkey(held[f"{name}/user.nk"].decode()).encode() in held["127.0.0.1/nats-server.conf"]
    assert node.run(*arguments, "--json").json["changed"] is False  # the seeds are taken up


def test_a_development_directory_is_whole_private_and_the_same_a_second_time(node: CliNode, out: Path) -> None:
    arguments = ("store", "config", "--dev-pki", str(out))
    dry = node.run(*arguments, "--dry-run", "--json").json
    assert ({file["state"] for file in dry["files"]}, dry["changed"], out.exists()) == ({"new"}, False, False)
    answer = node.run(*arguments)
    assert answer.code == 0
    assert "for development only" in answer.err
    held = files(out)
    assert set(held) == DEV_FILES
    for name in held:
        wanted = 0o600 if name.endswith((".key", ".nk")) else 0o644
        assert stat.S_IMODE((out / name).stat().st_mode) == wanted, name
    assert all(stat.S_IMODE(place.stat().st_mode) == 0o700 for place in (out, *out.iterdir()) if place.is_dir())
    for secret in (text for name, text in held.items() if name.endswith((".key", ".nk"))):
        assert secret.decode() not in answer.out + answer.err
    again = node.run(*arguments, "--json").json
    assert ({file["state"] for file in again["files"]}, again["changed"]) == ({"same"}, False)
    assert files(out) == held


def test_what_is_missing_comes_back_and_what_is_there_stays(node: CliNode, out: Path) -> None:
    arguments = ("store", "config", "--dev-pki", str(out))
    node.run(*arguments)
    before = files(out)
    for name in ("nats-2/server.pem", "node-a/keydist.yaml", "nats-1/nats-server.conf"):
        (out / name).unlink()
    answer = node.run(*arguments, "--json").json
    new = {Path(file["path"]).relative_to(out).as_posix() for file in answer["files"] if file["state"] == "new"}
    assert new == {"nats-2/server.pem", "node-a/keydist.yaml", "nats-1/nats-server.conf"}
    after = files(out)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"nats-2/server.pem"}  # for the same key


def test_another_follower_needs_consent_and_makes_no_other_key_anew(node: CliNode, out: Path) -> None:
    arguments = ("store", "config", "--dev-pki", str(out), "--leader", "lead-1", "--follower")
    node.run(*arguments, "node-a")
    before = files(out)
    refused = node.run(*arguments, "node-a,node-b", "--json")
    assert refused.code == 78
    assert "nats-1/nats-server.conf" in refused.error["found"]
    assert "--force" in refused.error["fix"]
    assert files(out) == before
    dry = node.run(*arguments, "node-a,node-b", "--dry-run")
    assert (dry.code, "would replace, with --force" in dry.out) == (0, True)
    assert node.run(*arguments, "node-a,node-b", "--force").code == 0
    after = files(out)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {f"nats-{n}/nats-server.conf" for n in (1, 2, 3)}
    assert {name.partition("/")[0] for name in set(after) - set(before)} == {"node-b"}


def test_who_would_not_be_let_in_any_more_is_told_before_it_happens(node: CliNode, out: Path) -> None:
    arguments = ("store", "config", "--dev-pki", str(out), "--leader", "lead-1", "--follower")
    assert node.run(*arguments, "node-a,node-b").code == 0
    told = [node.run(*arguments, "node-b,node-c", *more).err for more in (("--dry-run",), (), ("--force",))]
    assert all("not let in any more: node-a\n" in err for err in told)
    assert "--signal reload" in told[-1]
    again = node.run(*arguments, "node-b,node-a", "--dry-run", "--json").json
    assert again["removed"] == ["node-c"]


def test_a_server_may_have_an_ipv6_address_and_clients_use_the_port_it_listens_at(node: CliNode, out: Path) -> None:
    assert (
        node.run("store", "config", "--dev-pki", str(out), "--server", "n=[fd00::1]", "--listen", "{host}:5222").code
        == 0
    )
    held = files(out)
    assert b'listen: "[fd00::1]:5222"' in held["n/nats-server.conf"]
    assert b'servers: ["tls://[fd00::1]:5222"]' in held["node-a/keydist.yaml"]
    shown = x509.load_pem_x509_certificate(held["n/server.pem"])
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("fd00::1") in names.get_values_for_type(x509.IPAddress)


def test_two_hundred_nodes_are_named_once_each_and_two_next_steps(node: CliNode, out: Path) -> None:
    followers = ",".join(f"n{number}" for number in range(200))
    answer = node.run("store", "config", "--out", str(out), "--seeds", "--leader", "l", "--follower", followers)
    assert answer.code == 0
    assert files(out)["127.0.0.1/nats-server.conf"].count(b"nkey: ") == 202
    answer = node.run("store", "config", "--dev-pki", f"{out}-dev", "--leader", "l", "--follower", "a,b,c,d")
    assert answer.err.count("keydist bootstrap") == 2


def test_a_server_by_another_name_gets_another_certificate_for_the_same_key(node: CliNode, out: Path) -> None:
    arguments = ("store", "config", "--dev-pki", str(out), "--server")
    node.run(*arguments, "nats-1=127.0.0.1")
    before = files(out)
    assert node.run(*arguments, "nats-1=nats.example", "--force").code == 0
    after = files(out)
    assert after["nats-1/server.key"] == before["nats-1/server.key"]
    found = x509.load_pem_x509_certificate(after["nats-1/server.pem"])
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["nats-1", "nats.example", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_each_keydist_yaml_is_one_that_keydist_reads_and_names_files_that_are_there(node: CliNode, out: Path) -> None:
    node.run("store", "config", "--dev-pki", str(out), "--cluster", "trial")
    listened = set()
    for name, role in (("lead-1", "leader"), ("node-a", "follower"), ("node-b", "follower"), ("operator", "follower")):
        config = load_config(str(out / name / "keydist.yaml"), environ={}, overrides={})
        assert (config.cluster, config.node, config.role) == ("trial", name, role)
        assert config.nats.servers == tuple(f"tls://127.0.0.1:{port}" for port in (4222, 4223, 4224))
        tls = config.nats.tls
        assert tls is not None
        for path in (*tls, config.nats.nkey_file):
            assert path is not None
            assert Path(path).is_file()
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.load_cert_chain(str(tls.cert_file), tls.key_file)
        listened.add(config.http.listen)
    assert len(listened) == 4


# --- regions ---------------------------------------------------------------------------------------


def test_home_takes_a_regions_link_and_the_region_takes_over_its_seed(node: CliNode, out: Path, tmp_path: Path) -> None:
    node.configure(nats={"servers": ["tls://nats-1.example:4333"]})
    assert node.run("store", "config", "--out", str(out), "--seeds", *NAMED, "--link", "eu").code == 0
    home = (out / "nats-1.example" / "nats-server.conf").read_text("utf-8")
    seed = (out / "eu" / "user.nk").read_text("ascii")
    assert f'nkey: "{public_nkey(seed)}"' in home
    assert 'listen: "0.0.0.0:7422"' in home
    region = tmp_path / "region"
    for folder in (region, region / "eu"):
        folder.mkdir(mode=0o700)
    (region / "eu" / "user.nk").write_text(seed, encoding="ascii")
    (region / "eu" / "user.nk").chmod(0o600)
    named = ("--leader", "lead-1", "--operator", f"operator={OP}", "--follower", f"eu-1={NODE}")
    placed = ("--region", "eu", "--home", "nats-1.example", "--server", "eu-nats.example")
    assert node.run("store", "config", "--out", str(region), *named, *placed).code == 0
    text = (region / "eu-nats.example" / "nats-server.conf").read_text("utf-8")
    secret = region / "eu-nats.example" / "link.conf"
    assert 'urls: ["tls://nats-1.example:7422"]' in text
    assert re.search(r'^ping_interval: "5s"', text, re.MULTILINE), "a silent link is given up"
    assert not re.search(r"^ping_interval", home, re.MULTILINE), "home's clients are not pinged for that"
    assert 'include "link.conf"' in text
    assert seed.strip() not in text
    assert (secret.read_text("ascii"), stat.S_IMODE(secret.stat().st_mode)) == (f'nkey: "{seed.strip()}"\n', 0o600)
    assert '"_INBOX_lead-1.>"' in text, "a leader at home is answered"


@pytest.mark.parametrize(
    ("named", "linked"),
    [
        ("nats-1.example", "nats-1.example:7422"),
        ("nats-1.example:7000", "nats-1.example:7000"),
        ("192.0.2.1", "192.0.2.1:7422"),
        ("[2001:db8::1]", "[2001:db8::1]:7422"),
        ("[2001:db8::1]:7000", "[2001:db8::1]:7000"),
    ],
)
def test_a_region_links_to_a_name_or_an_address(named: str, linked: str, node: CliNode) -> None:
    node.configure(nats={"servers": ["tls://nats-1.example:4333"]})
    done = node.run("store", "config", *NAMED, "--region", "eu", "--home", named)
    assert (done.code, f'urls: ["tls://{linked}"]' in done.out) == (0, True)


def test_a_regions_servers_are_a_cluster_of_their_own_name_since_one_of_homes_is_refused_the_link(
    node: CliNode, out: Path
) -> None:
    named = (*NAMED, "--cluster", "prod", "--server", "n1", "--server", "n2", "--out", str(out))
    assert node.run("store", "config", *named, "--region", "eu", "--home", "nats-1.example").code == 0
    assert 'name: "prod-eu"' in (out / "n1" / "nats-server.conf").read_text("utf-8")


def test_a_region_without_the_seed_of_its_link_is_told_what_its_servers_lack(node: CliNode, out: Path) -> None:
    named = (*NAMED, "--server", "n1", "--out", str(out), "--region", "eu", "--home", "nats-1.example")
    done = node.run("store", "config", *named)
    assert done.code == 0
    assert "no link.conf is written" in done.err
    assert "eu/user.nk" in done.err
    assert not (out / "n1" / "link.conf").exists()


@pytest.mark.parametrize("text", [NODE, "", "SUAAAA"])
def test_what_is_no_seed_does_not_become_a_regions_secret(text: str, node: CliNode, out: Path) -> None:
    for folder in (out, out / "eu"):
        folder.mkdir(mode=0o700)
    (out / "eu" / "user.nk").write_text(text, encoding="ascii")
    (out / "eu" / "user.nk").chmod(0o600)
    named = (*NAMED, "--server", "n1", "--out", str(out), "--region", "eu", "--home", "nats-1.example")
    done = node.run("store", "config", *named)
    assert (done.code, "eu/user.nk is no seed of a user" in done.err) == (78, True)
    assert not (out / "n1").exists()


def test_what_makes_a_consumer_at_home_is_the_operator_and_a_link_may_begin_its_own_one_again(
    node: CliNode, out: Path
) -> None:
    """Who makes a consumer chooses where it delivers to, in the account of the streams."""
    links = ("--link", f"eu={public_nkey(seed_of('eu'))}", "--link", f"us={public_nkey(seed_of('us'))}")
    assert node.run("store", "config", *NAMED, *links, "--server", "n1", "--out", str(out)).code == 0
    text = (out / "n1" / "nats-server.conf").read_text("utf-8")
    allowed = re.findall(r'"([^"]*CONSUMER[^"]*)"', text.partition("  LINKS: {")[2])
    resets = [f"CONSUMER.RESET.KV_keydist.{region}" for region in ("eu", "us")]
    assert {one.removeprefix("$JS.API.").removeprefix("keydist.home.api.") for one in allowed} == set(resets)
    eu, us = (text.partition(f"# {region}")[2] for region in ("eu,", "us"))
    assert "keydist.home.api.CONSUMER.RESET.KV_keydist.eu" in eu.partition("# us")[0]
    assert "RESET.KV_keydist.eu" not in us.partition("imports")[0]


# --- what is refused ------------------------------------------------------------------------------

SEED = seed_of("exposed")
REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "several servers to standard output": ((*NAMED, "--server", "a", "--server", "b"), 2, "--out"),
    "both directories": (("--out", "x", "--dev-pki", "y"), 2, "exclude"),
    "no directory": (("--out", ""), 2, "no file"),
    "seeds without a directory": (("--seeds",), 2, "about files"),
    "no nkey": (("--leader", "lead-1"), 2, "no nkey of operator"),
    "a wildcard": (("--follower", f"*={NODE}"), 78, "name of a node"),
    "a dotted name": (("--follower", f"a.b={NODE}"), 78, "name of a node"),
    "an nkey with a slip": (("--leader", f"lead-1={LEAD[:-1]}{'A' if LEAD[-1] != 'A' else 'B'}"), 78, "none of a user"),
    "an account's nkey": (("--leader", "lead-1=A" + LEAD[1:]), 78, "none of a user"),
    "an empty nkey": (("--leader", "lead-1="), 78, "none of a user"),
    "a seed": (("--leader", f"lead-1={SEED}"), 78, "is a seed"),
    "a name twice": ((*NAMED, "--follower", f"lead-1={public_nkey(SEED)}"), 78, "two users have one name"),
    "an nkey twice": ((*NAMED, "--follower", f"node-b={LEAD}"), 78, "two users have one nkey"),
    "a server with a path": ((*NAMED, "--server", "a/../b"), 2, "--server"),
    "a server's port": ((*NAMED, "--server", "a=b:x"), 2, "--server"),
    "a server's port that is none": ((*NAMED, "--server", "a=b:65536"), 2, "--server"),
    "a server's IPv6 address that is none": ((*NAMED, "--server", "a=[::g]"), 2, "--server"),
    "a server's IPv6 address without brackets": ((*NAMED, "--server", "a=::1"), 2, "--server"),
    "a listening address that is none": ((*NAMED, "--listen", "300.0.0.1:4222"), 2, "--listen is no address"),
    "no listening port": ((*NAMED, "--routes", "[::]:0"), 2, "--routes is no address"),
    "no leader": (("--operator", f"operator={OP}"), 2, "no leader is named"),
    "a listening name": ((*NAMED, "--listen", "example:1"), 2, "--listen is no address"),
    "a listening port": ((*NAMED, "--listen", "127.0.0.1:70000"), 2, "--listen is no address"),
    "a relative place": ((*NAMED, "--files-dir", "tls"), 2, "--files-dir"),
    "a place with a line feed": ((*NAMED, "--store-dir", "/a\nb"), 78, "nats-server configuration"),
    "a region without a home": ((*NAMED, "--region", "eu"), 2, "go together"),
    "a home without a region": ((*NAMED, "--home", "a"), 2, "go together"),
    "a home's port": ((*NAMED, "--region", "eu", "--home", "a:70000"), 2, "--home is not well formed"),
    "a home that looks like an address": ((*NAMED, "--region", "eu", "--home", "10.0.0.300"), 2, "--home is not well"),
    "a home's IPv6 address without brackets": ((*NAMED, "--region", "eu", "--home", "fe80::1"), 2, "in brackets"),
    "where links are taken": ((*NAMED, "--link", "eu", "--leaf", "0.0.0.0:0"), 2, "--leaf is no address"),
    "a dotted region": ((*NAMED, "--region", "e.u", "--home", "a"), 78, "name of a node"),
    "a follower of the region's name": (
        (*NAMED, "--region", "node-a", "--home", "a", "--out", "x"),
        78,
        "names of their own",
    ),
    "a region that takes links": ((*NAMED, "--region", "eu", "--home", "a", "--link", "us"), 2, "takes no links"),
    "an unknown cluster": ((*NAMED, "--cluster", "a b"), 78, "cluster"),
}


@pytest.mark.parametrize(("arguments", "code", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(arguments: tuple[str, ...], code: int, said: str, node: CliNode) -> None:
    answer = node.run("store", "config", *arguments, "--json")
    assert (answer.code, said in answer.err) == (code, True), answer.err
    assert SEED not in answer.out + answer.err
    assert answer.error["message"]


def test_a_folder_is_either_a_servers_or_a_users(node: CliNode, out: Path) -> None:
    answer = node.run("store", "config", "--dev-pki", str(out), "--server", "lead-1", "--json")
    assert (answer.code, answer.error["found"]) == (78, "lead-1")
    for name in ("ca", "README", "token"):
        assert node.run("store", "config", "--dev-pki", str(out), "--leader", name).code == 78
    assert not out.exists()


@pytest.mark.parametrize("name", ["lead-1/user.nk", "lead-1/client.key", "ca/server-ca.key", "nats-1/server.key"])
@pytest.mark.parametrize("damage", ["junk", "open to others", "a link"])
def test_a_secret_that_is_not_right_is_refused_unseen_and_never_replaced(
    name: str, damage: str, node: CliNode, out: Path, tmp_path: Path
) -> None:
    arguments = ("store", "config", "--dev-pki", str(out), "--force", "--json")
    node.run(*arguments)
    path = out / name
    if damage == "junk":
        path.write_bytes(b"SUJUNKJUNK-----BEGIN\xff")
    elif damage == "open to others":
        path.chmod(0o640)
    else:
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    before = files(out)
    answer = node.run(*arguments)
    assert answer.code == {"junk": 78, "open to others": 77, "a link": 73}[damage]
    assert answer.error["fix"]
    assert "JUNKJUNK" not in answer.out + answer.err
    assert files(out) == before


def test_a_nkey_that_is_not_the_seeds_is_refused(node: CliNode, out: Path) -> None:
    arguments = ("store", "config", "--out", str(out), "--seeds", "--leader")
    node.run(*arguments, "lead-1")
    answer = node.run(*arguments, f"lead-1={LEAD}", "--json")
    assert (answer.code, answer.error["found"]) == (78, LEAD)


@pytest.mark.parametrize("where", [".", "lead-1"])
def test_a_directory_that_others_may_write_to_is_refused(where: str, node: CliNode, out: Path) -> None:
    node.run("store", "config", "--dev-pki", str(out))
    (out / where).chmod(0o770)
    answer = node.run("store", "config", "--dev-pki", str(out), "--json")
    assert (answer.code, answer.error["code"]) == (77, "unsafe-file")


def test_a_directory_without_a_parent_or_that_is_a_file_is_refused(node: CliNode, tmp_path: Path) -> None:
    assert node.run("store", "config", "--dev-pki", str(tmp_path / "a" / "b")).code == 73
    (tmp_path / "file").write_text("", encoding="ascii")
    assert node.run("store", "config", "--dev-pki", str(tmp_path / "file")).code == 77


def stopping(write: Callable[[str, bytes], object], left: list[int]) -> Callable[[str, bytes], object]:
    """Return a way to write that works `left[0]` times more, over all that count on the same list."""

    def work(path: str, data: bytes) -> object:
        if not left[0]:
            raise DiskError("the disk is full")
        left[0] -= 1
        return write(path, data)

    return work


def test_a_run_that_stopped_anywhere_is_finished_by_the_next(
    node: CliNode, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("store", "config", "--dev-pki", str(out), "--server", "nats-1", "--leader", "lead-1")
    for most in range(30):
        with monkeypatch.context() as patch:
            left = [most]
            for call in ("write_new", "write_public"):
                patch.setattr(file_set, call, stopping(getattr(file_set, call), left))
            stopped = node.run(*arguments).code
        before = files(out) if out.exists() else {}
        assert node.run(*arguments).code == 0
        after = files(out)
        assert {name: after[name] for name in before} == before
        assert not [name for name in after if name.endswith(".new")]
        if not stopped:
            break
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        out.rmdir()
    else:
        pytest.fail("it never came to the end")


# --- docker-compose.nats.yml ----------------------------------------------------------------------


def test_compose_mounts_and_publishes_what_the_command_writes(node: CliNode, out: Path) -> None:
    node.run("store", "config", "--dev-pki", str(out))
    composed = yaml.safe_load(COMPOSE.read_text("utf-8"))
    published = []
    for name, service in composed["services"].items():
        bound, kept = service["volumes"]
        assert bound["source"] == f"${{KEYDIST_NATS_DIR:-./nats-dev}}/{name}"
        assert bound["read_only"]
        assert kept == {"type": "volume", "source": name, "target": "/var/lib/nats"}
        option, path = service["command"]
        assert (option, str(Path(path).parent)) == ("--config", bound["target"])
        text = (out / name / Path(path).name).read_text("utf-8")
        assert f'store_dir: "{kept["target"]}"' in text
        assert f'server_name: "{name}"' in text
        for other in composed["services"]:
            assert (f'"tls://{other}:6222"' in text) is (other != name)
        for file in ("server.pem", "server.key", "server-ca.pem", "client-ca.pem"):
            assert f'"{bound["target"]}/{file}"' in text
            assert (out / name / file).is_file()
        assert json.dumps(service["healthcheck"]["test"][-1]) == '"http://127.0.0.1:8222/healthz"'
        assert 'http: "127.0.0.1:8222"' in text
        published += [port.removesuffix(":4222") for port in service["ports"]]
    assert set(composed["volumes"]) == set(composed["services"])
    config = load_config(str(out / "lead-1" / "keydist.yaml"), environ={}, overrides={})
    assert [f"tls://{address}" for address in published] == list(config.nats.servers)
    assert "--dev-pki nats-dev" in COMPOSE.read_text("utf-8")
