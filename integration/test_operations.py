"""docs/operations.md as it stands: its commands typed in its order, each runbook once what it is for has happened.

One cluster lives through all of it: three NATS servers with TLS and accounts, four nodes, each a machine with systemd.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration import machine
from integration.hosts import DESK, NODES, SERVERS, Hosts
from integration.incidents import AFTER, BEFORE
from integration.runbook import Runbook, Step, fits, read

_PAGE: Final = Path(__file__).parent.parent / "docs" / "operations.md"
_RUNBOOKS: Final = {book.title: book for book in read(_PAGE.read_text("utf-8")) if book.steps}
_PROMISED: Final = (
    "First cluster",
    "First: what is wrong",
    "Adding a node",
    "Replacing the leader",
    "Planned rotation",
    "Stolen node",
    "Leaked token",
    "Lost store",
    "Restored backup: NATS",
    "Restored backup: a node",
    "Restored backup: all is lost",
    "Upgrade",
    "What to alert on",
)
"""In the order in which one cluster goes through them: the page's, but that a cluster comes first."""

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("operations")]  # one cluster, in one process


def test_every_runbook_that_is_promised_stands_on_the_page_and_none_that_is_not_run() -> None:
    assert sorted(_RUNBOOKS) == sorted(_PROMISED)
    assert {*BEFORE, *AFTER} <= set(_PROMISED)


@pytest.mark.parametrize("title", _PROMISED)
def test_a_runbook_says_when_it_is_for_what_it_costs_how_to_see_that_it_worked_and_what_if_not(title: str) -> None:
    book = _RUNBOOKS[title]
    for part in ("**When**", "**Cost**", "**It worked**", "**If a step fails**"):
        assert part in book.text
    assert book.unmarked == (), "a block that is not run: make it a block of console"
    assert {step.host for step in book.steps} <= {DESK, *SERVERS, *NODES}


class Story:
    """What has been done so far; the rest follows when it is asked for."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._open = list(_PROMISED)

    def reach(self, title: str) -> None:
        """Go on until a runbook has been worked through."""
        while title in self._open:
            now = self._open.pop(0)
            if now in BEFORE:
                BEFORE[now](self.hosts)
            self._work_through(_RUNBOOKS[now])
            if now in AFTER:
                AFTER[now](self.hosts)

    def _work_through(self, book: Runbook) -> None:
        for step in book.steps:
            code, output = self.hosts.type(step.host, step.command, root=step.is_root)
            assert code == step.code, f"{_said(step)}\nended with {code}:\n{output}"
            shown = "\n".join(step.shown)
            assert not step.shown or fits(step.shown, output), f"{_said(step)}\nshows\n{shown}\nand printed\n{output}"


def _said(step: Step) -> str:
    return f"{_PAGE}:{step.line}: {step.host}{'#' if step.is_root else '$'} {step.command}"


@pytest.fixture(scope="session")  # before the package is built
def possible() -> None:
    """Go on where machines can be booted and what the page's commands use is there."""
    machine.skip_unless_possible()
    for tool, package in {"openssl": "openssl", "curl": "curl", "promtool": "prometheus"}.items():
        if shutil.which(tool) is None:
            machine.cannot(f"no {tool}: apt-get install --no-install-recommends {package}")


@pytest.fixture(scope="module")
def story(possible: None, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with Hosts(tmp_path_factory.mktemp("operations")) as hosts:
        shutil.copy(package, hosts.home)
        yield Story(hosts)


@pytest.mark.parametrize("title", _PROMISED)
def test_a_runbook_works_as_it_stands(title: str, story: Story) -> None:
    story.reach(title)
