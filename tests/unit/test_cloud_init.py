"""The example for cloud-init: YAML that cloud-init takes, a configuration that keydist takes, and no token."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from keydist.adapters.config import load_config

EXAMPLE: Final = Path(__file__).parents[2] / "docs" / "cloud-init.yaml"
SYSTEMD: Final = Path(__file__).parents[2] / "systemd"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.startswith("#cloud-config\n")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def files(example: dict[str, Any]) -> dict[str, str]:
    return {file["path"]: file["content"] for file in example["write_files"]}


def test_its_configuration_is_one(example: dict[str, Any], tmp_path: Path) -> None:
    written = tmp_path / "keydist.yaml"
    written.write_text(files(example)["/etc/keydist/keydist.yaml"], encoding="utf-8")
    config = load_config(str(written), environ={}, overrides={})
    assert (config.role, config.token_file) == ("follower", "/etc/keydist/token")
    ca_file = config.nats.tls and config.nats.tls.ca_file
    assert ca_file in files(example)


def test_it_carries_no_token_and_nothing_that_could_hide_one(example: dict[str, Any]) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert not re.search(r"kdt1_[0-9a-f]", text)
    assert not re.search(r"S[A-Z2-7]{57}", text)
    assert not {"/etc/keydist/token", "/etc/keydist/user.nk"} & set(files(example))
    assert not [file for file in example["write_files"] if "encoding" in file]
    assert not re.findall(base64.b64encode(b"kdt1").decode().rstrip("="), text)


def test_it_starts_what_is_shipped_without_waiting_for_it(example: dict[str, Any]) -> None:
    """A wait would hold up the whole first boot: the token may come days later."""
    *_, last = example["runcmd"]
    assert last == ["systemctl", "enable", "--now", "--no-block", "keydist.service"]
    assert (SYSTEMD / last[-1]).exists()
    [consumer] = [content for path, content in files(example).items() if path.endswith("key.conf")]
    assert "Requires=keydist-ready.target\nAfter=keydist-ready.target\n" in consumer
