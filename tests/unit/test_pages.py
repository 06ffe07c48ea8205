"""The manual page and the completions are made from the commands, and the programs that read them take them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from keydist.cli.app import app
from package.pages import write
from tests.unit.test_units import needs


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("share")
    write(directory)
    return directory


def shown(share: Path) -> str:
    """Return the page as a person reads it, on lines that do not wrap."""
    command = ["man", "--warnings", "-l", str(share / "man/man1/keydist.1")]
    environ = {"PATH": "/usr/bin:/bin", "MANWIDTH": "2000", "MANPAGER": "cat", "LANG": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=environ)
    assert done.stderr == ""  # every request of it is known
    return done.stdout


@needs("man")
def test_the_page_has_every_command_with_every_option(share: Path) -> None:
    if "minimized" in subprocess.run(["man", "--help"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("man was taken out of this system")
    page = shown(share)
    assert "keydist - give every node of a cluster the same JWT-signing key" in page
    options = 0
    for name, group in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for path, command in [(f"{name} {sub}", one) for sub, one in getattr(group, "commands", {}).items()] or [
            (name, group)
        ]:
            assert f"   keydist {path}" in page
            for option in (one for one in command.params if one.param_type_name == "option"):
                assert f"       {option.opts[0]}" in page
                options += 1
    assert options > 100


@needs("man")
def test_the_page_names_every_exit_code(share: Path) -> None:
    section = shown(share).partition("EXIT STATUS")[2].partition("FILES")[0]
    assert [line.split()[0] for line in section.splitlines() if line.strip()] == [
        *("0", "1", "2", "65", "70", "73", "75", "77", "78")
    ]


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", "bash-completion/completions/keydist"),
        ("zsh", "zsh/vendor-completions/_keydist"),
        ("fish", "fish/vendor_completions.d/keydist.fish"),
    ],
)
def test_a_completion_is_for_keydist_and_its_shell_can_read_it(share: Path, shell: str, place: str) -> None:
    script = (share / place).read_text(encoding="utf-8")
    assert "_KEYDIST_COMPLETE=complete_" + shell in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", str(share / place)], check=True, timeout=30)
