"""The metrics: what both parsers of the format read, what each says, and that the documentation has the same table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from keydist.adapters.metric_samples import PHASES, codes
from keydist.adapters.metric_table import METRICS, PREFIX
from keydist.adapters.metrics import PROPAGATION, PROPAGATION_TEXT, render_metrics
from keydist.core.fleet import NodeState
from keydist.core.report import Report
from tests.material import DAY, NOW
from tests.reports import ALARMED, FOLLOWER, LEADER, NO_KEYSET, REPORTS

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
DOCS = Path("docs/metrics.md").read_text(encoding="utf-8")


def values(report: Report) -> dict[tuple[str, ...], float]:
    """Return each sample: its name and its label values → its value."""
    body, _ = render_metrics(report, "")
    families: Iterable[Metric] = parse_text(body.decode())
    return {(sample.name, *sample.labels.values()): sample.value for one in families for sample in one.samples}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_both_formats_are_read_by_their_parsers_and_say_the_same(report: Report) -> None:
    text, kind = render_metrics(report, "text/plain")
    assert kind.startswith("text/plain; version=0.0.4")
    plain = {one.name for one in parse_text(text.decode())}
    text, kind = render_metrics(report, OPENMETRICS)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")
    families = list(parse_openmetrics(text.decode()))  # type: ignore[no-untyped-call]
    assert len(families) == len({family.name for family in families})
    assert {name.removesuffix("_info").removesuffix("_total") for name in plain} == {one.name for one in families}
    assert all(family.documentation for family in families)


@pytest.mark.parametrize("escaping", ["allow-utf-8", "underscores", "dots", "values"])
def test_what_prometheus_3_asks_for_is_what_it_gets(escaping: str) -> None:
    """It asks for one escaping, `allow-utf-8` by default, and for the format of before without."""
    accept = (
        f"application/openmetrics-text;version=1.0.0;escaping={escaping};q=0.5,"
        "application/openmetrics-text;version=0.0.1;q=0.4,"
        f"text/plain;version=1.0.0;escaping={escaping};q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
    )
    text, kind = render_metrics(LEADER, accept)
    assert kind == f"application/openmetrics-text; version=1.0.0; charset=utf-8; escaping={escaping}"
    assert text.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=abc",
        "application/openmetrics-text; version=1.0.0; escaping=none",
        "application/openmetrics-text; version=1.0.0\r\nx: y",
        "application/openmetrics-text; version=9.9",
        "text/plain; version=<script>",
        "application/openmetrics-text; version=" + "1" * 2000,
        "\x00",
        "ä",
        ";;;,,,===",
    ],
)
def test_a_hostile_accept_header_gets_an_answer_and_is_not_repeated(accept: str) -> None:
    body, kind = render_metrics(LEADER, accept)
    assert body
    assert re.fullmatch(
        r"(text/plain; version=0\.0\.4|application/openmetrics-text; version=1\.0\.0); [a-z0-9;=-]+.*", kind
    )


def test_a_leader_tells_times_states_and_counts() -> None:
    found = values(LEADER)
    assert LEADER.keyset is not None
    active = next(key for key in LEADER.keyset.keys if key.use == "sig" and key.state.value == "active")
    assert found["keydist_epoch",] == 7
    assert found["keydist_confirmed_timestamp_seconds",] == NOW - 4
    assert found["keydist_mint_until_timestamp_seconds",] == NOW - 4 + 7 * DAY
    assert found["keydist_rotation_due_timestamp_seconds",] == NOW + 25 * DAY
    assert found["keydist_key_held_timestamp_seconds", active.kid, "active", "sig"] == NOW - 5 * DAY
    assert found["keydist_minted_jwts_total", active.kid] == 41_812
    assert found["keydist_verify_failures_total", "expired"] == 17
    assert found["keydist_verify_failures_total", "signature"] == 0
    assert found["keydist_store_state", "same"] == 1
    assert found["keydist_store_state", "unreachable"] == 0
    assert found["keydist_fleet_nodes", "current"] == 20
    assert found["keydist_propagation_seconds_bucket", "0.25"] == 11
    assert found["keydist_propagation_seconds_count",] == 19


def test_every_code_state_and_phase_is_there_at_zero_so_that_an_alert_finds_it() -> None:
    found = values(ALARMED)
    assert {name[1] for name in found if name[0] == "keydist_alarms"} == set(codes())
    assert [found["keydist_alarms", code] for code in ("overdue", "store-lost", "fork")] == [1, 1, 0]
    assert {name[1] for name in found if name[0] == "keydist_fleet_nodes"} == {state.value for state in NodeState}
    assert [found["keydist_overdue", phase] for phase in PHASES] == [1, 0, 0]


def test_what_is_not_known_is_absent() -> None:
    names = {name[0] for name in values(FOLLOWER)}
    assert not {name for name in names if "fleet" in name or "propagation" in name or "lacking" in name}
    names = {name[0] for name in values(NO_KEYSET)}
    assert not {name for name in names if "key_" in name or "epoch" in name}
    assert values(NO_KEYSET)["keydist_has_keyset",] == 0
    assert LEADER.keyset is not None
    plan = LEADER.keyset.plan._replace(due=None)
    unsure = replace(LEADER, keyset=replace(LEADER.keyset, lease=None, confirmed=None, plan=plan))
    assert not [name for name in values(unsure) if name[0].startswith(("keydist_mint_until", "keydist_rotation_due"))]


def test_nothing_is_registered_in_the_process() -> None:
    assert not [one for one in REGISTRY.collect() if one.name.startswith(PREFIX)]


def test_the_documentation_has_exactly_these_metrics() -> None:
    rows = {
        (name, labels.replace("`", ""), text)
        for name, labels, text in re.findall(r"^\| `(keydist_\w+)` \| (.*?) \| (.*) \|$", DOCS, re.MULTILINE)
    }
    wanted = {(one.full_name, ", ".join(one.labels) or "–", one.text) for one in METRICS}
    assert rows == wanted | {(PREFIX + PROPAGATION, "le", PROPAGATION_TEXT)}


def test_the_rules_are_yaml_and_name_metrics_that_exist() -> None:
    rules = yaml.safe_load(Path("docs/keydist.rules.yml").read_text(encoding="utf-8"))
    known = {one.full_name for one in METRICS} | {
        f"{PREFIX}{PROPAGATION}{end}" for end in ("_bucket", "_sum", "_count")
    }
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 8
    for rule in alerts:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        used = set(re.findall(r"keydist_\w+", rule["expr"]))
        assert used or rule["expr"] == 'up{job="keydist"} == 0'
        assert used <= known, rule["alert"]
        for code in re.findall(r'code(?:=~|=|!~|!=)"([^"]+)"', rule["expr"]):
            assert set(code.split("|")) <= set(codes())
