"""docs/keydist.rules.yml by Prometheus's own tool: when each alert fires, and that none does while all is well."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.unit.test_units import needs

_RULES: Final = Path(__file__).parents[2] / "docs" / "keydist.rules.yml"
_NODE: Final = '{instance="eu-a", job="keydist"}'
_OTHER: Final = '{instance="eu-b", job="keydist"}'


class Case(NamedTuple):
    """Series, one value a minute, until which minute an alert is silent, and in which it fires."""

    series: dict[str, str]
    silent: int
    fires: int


_CASES: Final = {
    "KeydistAgentDown": Case({f"up{_NODE}": "1 0x200"}, 5, 7),
    "KeydistNoKeyset": Case({f"keydist_has_keyset{_NODE}": "1 0x200"}, 5, 7),
    "KeydistStoreLost": Case({'keydist_alarms{instance="eu-a", code="store-lost"}': "0 1x200"}, 2, 4),
    "KeydistTrust": Case({'keydist_alarms{instance="eu-a", code="fork"}': "0 1x200"}, 1, 3),
    "KeydistAlarm": Case({'keydist_alarms{instance="eu-a", code="hook-failed"}': "0 1x200"}, 30, 32),
    "KeydistLeaseEnds": Case({f"keydist_mint_until_timestamp_seconds{_NODE}": "87000x200"}, 9, 11),
    "KeydistStaleLook": Case({f"keydist_store_look_timestamp_seconds{_NODE}": "60x200"}, 10, 13),
    "KeydistOverdue": Case({f'keydist_overdue{{phase="rotation", {_NODE[1:]}': "0 1x200"}, 15, 17),
    "KeydistEpochsDiffer": Case({f"keydist_epoch{_NODE}": "1x200", f"keydist_epoch{_OTHER}": "1 2x200"}, 10, 12),
    "KeydistLineagesDiffer": Case(
        {
            'keydist_keyset_info{instance="eu-a", lineage="1"}': "1x200",
            'keydist_keyset_info{instance="eu-b", lineage="2"}': "_ 1x200",
        },
        1,
        3,
    ),
    "KeydistClocksDiffer": Case({f"keydist_clock_timestamp_seconds{_NODE}": "0 91+60x200"}, 10, 12),
    "KeydistForgeries": Case({f'keydist_verify_failures_total{{reason="signature", {_NODE[1:]}': "0+2x200"}, 10, 12),
    "KeydistSlowPropagation": Case(
        {
            'keydist_propagation_seconds_bucket{instance="eu-a", le="60"}': "0x200",
            'keydist_propagation_seconds_bucket{instance="eu-a", le="300"}': "0+1x200",
            'keydist_propagation_seconds_bucket{instance="eu-a", le="+Inf"}': "0+1x200",
        },
        0,
        2,
    ),
}
_WELL: Final = {
    f"up{_NODE}": "1x200",
    f"keydist_has_keyset{_NODE}": "1x200",
    'keydist_alarms{instance="eu-a", code="store-lost"}': "0x200",
    'keydist_alarms{instance="eu-a", code="fork"}': "0x200",
    f"keydist_mint_until_timestamp_seconds{_NODE}": "604800+60x200",
    f"keydist_store_look_timestamp_seconds{_NODE}": "0+60x200",
    f"keydist_clock_timestamp_seconds{_NODE}": "0+60x200",
    f"keydist_epoch{_NODE}": "1x60 2x139",
    f"keydist_epoch{_OTHER}": "1x61 2x138",
    f'keydist_verify_failures_total{{reason="signature", {_NODE[1:]}': "0+1x200",
    'keydist_propagation_seconds_bucket{instance="eu-a", le="60"}': "0+1x200",
    'keydist_propagation_seconds_bucket{instance="eu-a", le="+Inf"}': "0+1x200",
}


def alerts() -> list[str]:
    rules: dict[str, Any] = yaml.safe_load(_RULES.read_text("utf-8"))
    return [rule["alert"] for group in rules["groups"] for rule in group["rules"]]


def run(directory: Path, series: dict[str, str], **expected: dict[int, bool]) -> str:
    """Return what promtool says against alerts that fire at these minutes, and only there; nothing where they do."""
    rules: dict[str, Any] = yaml.safe_load(_RULES.read_text("utf-8"))
    for rule in rules["groups"][0]["rules"]:  # what they say is not compared
        rule |= {"annotations": {}, "labels": {}}
        rule["expr"] = f"count({rule['expr']})"
    (directory / "rules.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    tested = [
        {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [{"exp_labels": {}}] if fires else []}
        for name, at in expected.items()
        for minute, fires in at.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": tested}
    (directory / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(directory / "test.yml")], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert sorted(alerts()) == sorted(_CASES)


@needs("promtool")
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(_RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
@pytest.mark.parametrize("name", _CASES)
def test_an_alert_fires_once_it_has_lasted(name: str, tmp_path: Path) -> None:
    case = _CASES[name]
    assert run(tmp_path, case.series, **{name: {case.silent: False, case.fires: True}}) == ""


@needs("promtool")
def test_none_fires_while_all_is_well(tmp_path: Path) -> None:
    assert run(tmp_path, _WELL, **{name: dict.fromkeys((1, 15, 61, 62, 120, 199), False) for name in alerts()}) == ""
