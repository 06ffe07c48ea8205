"""The pages: what they link to exists, every code has a row, every alert a runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from keydist.adapters.metric_samples import codes

_ROOT: Final = Path(__file__).parents[2]
_PAGES: Final = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md"), *_ROOT.glob("systemd/*.md")])
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"#{1,6} (.+)")
_ALERT: Final = re.compile(r"\| `(\w+)` \| (\w+) \| [^|]+ \| \[[^]]+\]\(([^)]+)\) \|")


def _text(page: Path) -> list[str]:
    """Return the lines that are not in a fenced block."""
    inside, found = False, []
    for line in page.read_text("utf-8").splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            found.append(line)
    return found


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = [heading[1] for line in _text(page) if (heading := _HEADING.fullmatch(line))]
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_what_a_page_links_to_exists(page: Path) -> None:
    missing = []
    for link in _LINK.findall("\n".join(_text(page))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            missing.append(link)
    assert missing == []


def test_every_code_of_an_error_has_one_row_that_says_what_to_do() -> None:
    text = (_ROOT / "docs/alarms.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \|[^|]+\|[^|]+\|$", text, re.MULTILINE)
    elsewhere = set(re.findall(r"`([a-z-]+)` \(\d+\)", text))
    assert len(rows) == len(set(rows))
    assert set(rows) | elsewhere == set(codes())


def test_every_alert_names_a_section_that_exists_and_the_page_lists_them_all() -> None:
    rules: dict[str, Any] = yaml.safe_load((_ROOT / "docs/keydist.rules.yml").read_text("utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    page = _ROOT / "docs/operations.md"
    listed = {
        (name, severity, str((page.parent / (link.partition("#")[0] or page.name)).relative_to(_ROOT)), anchor)
        for name, severity, link in _ALERT.findall(page.read_text("utf-8"))
        for anchor in [link.partition("#")[2]]
    }
    wanted = set()
    for rule in alerts:
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor in _anchors(_ROOT / path), rule["alert"]
        wanted.add((rule["alert"], rule["labels"]["severity"], path, anchor))
    assert listed == wanted
