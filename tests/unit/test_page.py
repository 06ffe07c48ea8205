"""The status page as text: well formed, escaped, self-contained, and true to its report; and where the bars lie."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from keydist.adapters.page import MOST_ALARMS, MOST_NODES, PAGE_POLICY, STYLE_HASH, render_page
from keydist.adapters.page_text import far, moment, safe, short, span, stamp
from keydist.adapters.page_timeline import Phase, Scale, expected_activation, phases, scale, ticks, timeline
from keydist.core.fleet import NodeState
from keydist.core.keyset import State
from keydist.core.report import Report
from keydist.core.restart import InStore
from keydist.errors import KeydistError
from tests.material import DAY, NOW
from tests.reports import AGED, ALARMED, FOLLOWER, HOSTILE_ONE, LEADER, NO_KEYSET, REPORTS, of_fleet

VOID = {"meta", "link"}
EMPTY_IN_SVG = {"path", "circle", "line", "rect"}


class Document(HTMLParser):
    """A parsed page that insists on every element being closed, each id being unique, and each reference resolved."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY_IN_SVG
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_a_page_is_one_well_formed_document_that_needs_nothing_from_anywhere(report: Report) -> None:
    text = render_page(report)
    page = Document(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "form", "object", "base", "input"}
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert "style" not in attributes
    assert not {name for name in attributes if name.startswith("on")}
    links = [str(value) for _, attrs in page.tags for name, value in attrs.items() if name in ("href", "src")]
    assert all(link.startswith(("/", "#", "data:image/svg+xml,")) and not link.startswith("//") for link in links)
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#hatch"}
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {one for _, attrs in page.tags for one in str(attrs.get("aria-labelledby") or "").split()}
    assert wanted <= set(ids)


def test_the_policy_allows_exactly_the_style_of_the_page() -> None:
    style = render_page(LEADER).split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"sha256-{digest}" == STYLE_HASH
    assert f"style-src '{STYLE_HASH}'" in PAGE_POLICY
    assert "unsafe" not in PAGE_POLICY


def test_nothing_of_a_report_becomes_markup_or_turns_the_writing_around() -> None:
    text = render_page(HOSTILE_ONE)
    assert "<script" not in text
    assert not [char for char in text if not char.isprintable() and char != "\n"]
    plain = Document(render_page(LEADER))
    assert {tag for tag, _ in Document(text).tags} <= {tag for tag, _ in plain.tags} | {"article", "h3", "strong"}
    assert len(text) < 60_000


def test_a_page_holds_nothing_secret() -> None:
    text = render_page(LEADER)
    for key in AGED.keyset.keys:
        if key.use == "enc" or key.state is not State.RETIRED:
            tail = key.material[-32:]
            assert tail.hex() not in text
            assert base64.urlsafe_b64encode(tail).decode().rstrip("=") not in text


@pytest.mark.parametrize(
    ("report", "words"),
    {
        "a healthy leader": (LEADER, ["Healthy.", "epoch 7", "20 current", "expired 17, kid-unknown 2", "0.2 s"]),
        "a follower": (FOLLOWER, ["follower of cluster prod-eu1", "Only leaders watch the fleet", "none"]),
        "alarms": (ALARMED, ["3 alarms.", "What to do:", "overdue", "Keyset put back", "node-99", "17"]),
        "no keyset": (NO_KEYSET, ["No keyset.", "There are none here: no server answers.", "look at the network"]),
        "waiting": (replace(NO_KEYSET, store=InStore.NEVER_WRITTEN), ["a leader has to publish it"]),
        "not judged": (replace(LEADER, store=None), ["not judged"]),
        "one alarm": (replace(LEADER, alarms=(KeydistError("odd"),)), ["1 alarm.", "odd", "(error)"]),
        "no fleet yet": (replace(LEADER, fleet=of_fleet(nodes=0)), ["No node was heard yet."]),
        "no rehearsal": (FOLLOWER, ["Backup tried out never"]),
    }.values(),
    ids=lambda value: None,
)
def test_a_page_says_what_its_report_says(report: Report, words: list[str]) -> None:
    found = Document(render_page(report)).words
    assert [word for word in words if word not in found] == []


def test_what_needs_attention_comes_first_and_a_large_fleet_is_cut() -> None:
    fleet = of_fleet(nodes=MOST_NODES + 5, node_07=NodeState.SILENT, node_11=NodeState.BEHIND)
    alarms = tuple(KeydistError(f"number {number}") for number in range(MOST_ALARMS + 2))
    found = Document(render_page(replace(LEADER, fleet=fleet, alarms=alarms))).words
    assert found.index("node-07 silent") < found.index("node-11 behind") < found.index("node-01 current")
    assert "And 5 more" in found
    assert "And 2 more" in found


def test_a_rotation_that_cannot_be_yet_says_why() -> None:
    assert LEADER.keyset is not None
    plan = LEADER.keyset.plan._replace(due=NOW - 10, opens=NOW + 600, lacking=("a", "b"))
    found = Document(render_page(replace(LEADER, keyset=replace(LEADER.keyset, plan=plan)))).words
    assert "not before 2027-01-15 08:10 in 10 min" in found
    assert "2 node(s) have not acknowledged" in found
    none = replace(LEADER.keyset, plan=plan._replace(due=None))
    assert "none by schedule" in Document(render_page(replace(LEADER, keyset=none))).words


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [("<b>", "&lt;b&gt;"), ("\"'&", "&quot;&#x27;&amp;"), ("a\u202eb", "a\ufffdb"), ("x" * 1001, "x" * 1000 + "…")],
    ids=["markup", "quotes", "direction", "length"],
)
def test_text_is_escaped_and_bounded(given: str, shown: str) -> None:
    assert safe(given) == shown


def test_times_are_shown_with_how_far_they_are() -> None:
    assert stamp(NOW) == "2027-01-15T08:00:00Z"
    assert stamp(1 << 60) == str(1 << 60)
    assert "unix seconds" in moment(1 << 60, now=NOW)
    assert "in 2 d" in moment(NOW + 2 * DAY, now=NOW)
    assert "never" in moment(None, now=NOW)
    assert [far(0), far(-60), far(7200)] == ["now", "60 s ago", "in 2 h"]
    assert [span(119), span(120), span(7199)] == ["119 s", "2 min", "119 min"]
    assert [short("0123456789ab"), short("0123456789abc")] == ["0123456789ab", "0123456789…"]


# --- the time line --------------------------------------------------------------------------------


def test_a_key_goes_through_its_phases_without_a_gap() -> None:
    assert LEADER.keyset is not None
    activation = expected_activation(LEADER.keyset, now=NOW)
    assert activation == NOW + 25 * DAY
    for key in LEADER.keyset.keys:
        found = phases(key, now=NOW, activation=activation)
        assert [phase.end for phase in found[:-1]] == [phase.start for phase in found[1:]]
        assert found[0].start == key.published
        wanted = {State.NEXT: activation, State.ACTIVE: activation, State.RETIRED: key.drops}
        assert found[-1].end == wanted[key.state]
        assert found[-1].coming is (key.state is not State.RETIRED)


def test_keys_without_all_their_times_have_bars_too() -> None:
    assert LEADER.keyset is not None
    bare = {"published": None, "activated": None, "retired": None, "drops": None, "created": NOW - 9}
    keys = [replace(key, **bare) for key in LEADER.keyset.keys]  # type: ignore[arg-type]
    for key in keys:
        found = phases(key, now=NOW, activation=None)
        assert found[0].start == NOW - 9
        assert all(phase.start <= phase.end for phase in found)
        assert not [phase for phase in found if phase.coming]
    assert "No rotation is scheduled" in timeline(
        replace(LEADER.keyset, keys=tuple(keys), plan=LEADER.keyset.plan._replace(due=None)), now=NOW
    )


def test_a_scale_has_room_for_everything_and_at_most_five_round_times() -> None:
    row = (Phase(State.ACTIVE, NOW - 10 * DAY, NOW + 20 * DAY),)
    found = scale((row,), now=NOW)
    assert 0 < found.at(NOW - 10 * DAY) < found.at(NOW) < found.at(NOW + 20 * DAY) < 100
    assert found.at(0) == 0
    assert found.at(1 << 60) == 100


@pytest.mark.parametrize("length", [1200, 5000, DAY, 3 * DAY, 45 * DAY, 900 * DAY, 9000 * DAY, 1 << 50])
def test_ticks_are_few_round_and_between_the_edges(length: int) -> None:
    found = Scale(NOW - length // 2, NOW + length // 2)
    times = ticks(found)
    assert 1 <= len(times) <= 6
    assert all(found.start <= at <= found.end for at in times)
    assert len({later - earlier for earlier, later in pairwise(times)}) <= 1


def test_every_bar_lies_within_the_picture() -> None:
    for report in REPORTS.values():
        if report.keyset is not None:
            text = timeline(report.keyset, now=report.now)
            for left, width in re.findall(r'x="([\d.]+)%" y="\d+" width="([\d.]+)%"', text):
                assert 0 <= float(left) <= float(left) + float(width) <= 100.5
            assert text.count('class="label"') == len(report.keyset.keys)


def test_short_histories_are_shown_by_the_hour() -> None:
    assert LEADER.keyset is not None
    young = tuple(
        replace(key, created=NOW - 60, published=NOW - 60, activated=NOW - 60, retired=NOW - 60, drops=NOW + 3600)
        for key in LEADER.keyset.keys
    )
    plan = LEADER.keyset.plan._replace(due=NOW, opens=NOW - 1)
    text = timeline(replace(LEADER.keyset, keys=young, plan=plan), now=NOW)
    assert "15 Jan 08:00" in text
    assert "A rotation is due." in text
