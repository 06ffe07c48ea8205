"""The status page in a real browser: what assistive technology finds, a keyboard reaches, and the network sees."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from selenium.webdriver.common.keys import Keys

from integration.browser import Browser, Site, browsing
from integration.fleet import Member
from integration.nodes import Node
from integration.npm import install
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.page import render_page
from tests.reports import LEADER, REPORTS
from tests.unit.agent_host import eventually

pytestmark = pytest.mark.timeout(180)

_PICTURE: Final = Path("docs/img/status-page.png")
_RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return axe-core, as its lock file pins it."""
    directory = install(tmp_path_factory.mktemp("axe") / "node")
    return (directory / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REPORTS)
def test_it_fits_speaks_to_nobody_else_and_complains_of_nothing(name: str, browser: Browser, site: Site) -> None:
    site.page, site.asked = render_page(REPORTS[name]), []
    for width in (1200, 320):
        browser.log("performance")
        browser.show(site.url, width=width)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.log("browser") == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        assert [url for url in sent if url != site.url and not url.startswith(("data:", "chrome:"))] == []
    assert set(site.asked) == {"/"}


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("leader", 1200, "light"),
        ("alarms", 1200, "dark"),
        ("alarms", 320, "light"),
        ("rotated", 320, "dark"),
        ("no keyset", 320, "light"),
        ("follower", 1200, "dark"),
    ],
)
def test_axe_finds_nothing(  # noqa: PLR0917 - a case and three fixtures
    name: str, width: int, scheme: str, browser: Browser, site: Site, axe: str
) -> None:
    report = REPORTS[name]
    if report.fleet is not None:  # rows are alike, and axe takes its time for each
        report = replace(
            report, fleet=replace(report.fleet, nodes=report.fleet.nodes[4:16:2] + report.fleet.nodes[7:12:4])
        )
    site.page = render_page(report)
    browser.show(site.url, width=width, dark=scheme == "dark")
    assert violations(browser, axe) == []


def violations(browser: Browser, axe: str) -> list[tuple[str, list[str]]]:
    """Return which rules of accessibility the page breaks, and where."""
    browser.run(axe)
    found = browser.driver.execute_async_script(
        "const [rules, done] = arguments; axe.run(document, {runOnly: rules}).then(done, e => done({error: `${e}`}))",
        _RULES,
    )
    assert found["passes"], found
    return [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found["violations"]]


def test_its_style_is_the_one_that_its_policy_allows(browser: Browser, site: Site) -> None:
    site.page = render_page(LEADER)
    browser.show(site.url)
    assert browser.run("return getComputedStyle(document.querySelector('.state')).display") == "flex"
    site.page = site.page.replace("<style>", "<style>\n")
    browser.log("browser")
    browser.show(site.url)
    assert browser.run("return getComputedStyle(document.querySelector('.state')).display") == "block"
    assert "style-src" in browser.log("browser")[0]["message"]


def test_assistive_technology_finds_landmarks_headings_tables_and_what_the_picture_shows(
    browser: Browser, site: Site
) -> None:
    site.page = render_page(LEADER)
    for width in (1200, 320):
        browser.show(site.url, width=width)
        nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
        seen = [
            (node["role"]["value"], node.get("name", {}).get("value", ""), node.get("description", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
        roles = [role for role, _, _ in seen]
        assert {"banner", "main", "contentinfo", "table", "rowheader", "columnheader"} <= set(roles)
        assert [name for role, name, _ in seen if role == "heading"] == ["node-00", "This node", "Keys", "Fleet"]
        assert [name for role, name, _ in seen if role == "region"] == ["This node", "Keys", "Fleet"]
        assert roles.count("row") == 1 + 6 + 1 + 20
        picture = next(one for one in seen if one[1].startswith("The keys on a time line"))
        assert "2 next, 2 active, 2 retired keys" in " ".join(picture)


def test_a_keyboard_reaches_every_link_and_sees_where_it_is(browser: Browser, site: Site) -> None:
    site.page = render_page(LEADER)
    browser.show(site.url, width=320)
    reached = []
    for _ in range(5):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.driver.switch_to.active_element
        reached.append(focused.text)
        assert focused.value_of_css_property("outline-style") == "solid"
        assert focused.location["x"] >= 0, "what has the focus is seen"
    assert reached == ["Skip to the content", "Load it again", "JWK Set", "health", "readiness"]


def test_an_agent_serves_the_page_of_its_own_node_and_it_changes_with_the_keyset(
    browser: Browser, axe: str, tmp_path: Path
) -> None:
    server = EmbeddedServer(tmp_path / "nats")
    server.start()
    serves = {"http": {"listen": "127.0.0.1:0"}}
    node = Node(directory=tmp_path / "node-a", url=server.url, bucket="page", role="leader", more=serves)
    member = Member(node)
    member.start()
    try:
        eventually(lambda: any(event["event"] == "serving" and event["what"] == "http" for event in member.events()))
        url = next(event["at"] for event in member.events() if event.get("what") == "http")
        eventually(lambda: (node.load().held is not None) or None)
        kids = []
        for _ in range(2):
            held = node.load().held
            assert held is not None
            kids.append(held.keyset.active.kid)
            eventually(lambda: kids[-1][:8] in _shown(browser, f"http://{url}/"))
            assert violations(browser, axe) == []
            assert browser.log("browser") == []
            node.start_command("key", "revoke", kids[-1], "--reason", "a test", "--yes").answer()
        assert len(set(kids)) == 2
        assert "node-a" in browser.driver.title
    finally:
        member.end(signal.SIGTERM)
        server.stop()


def _shown(browser: Browser, url: str) -> str:
    browser.show(url)
    return str(browser.run("return document.body.innerText"))


@pytest.mark.skipif(not os.environ.get("KEYDIST_SCREENSHOT"), reason="KEYDIST_SCREENSHOT=1 takes the README's picture")
def test_the_picture_of_the_readme_is_taken(browser: Browser, site: Site) -> None:
    site.page = render_page(LEADER)
    browser.show(site.url, width=1000, height=1010)
    _PICTURE.parent.mkdir(exist_ok=True)
    browser.driver.save_screenshot(str(_PICTURE))
    assert _PICTURE.stat().st_size < 150_000
