"""TAB in a shell: options, and the names that exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.__main__ import main
from flows.completion import SCRIPTS, candidates
from tests.flows.test_arguments import finished_runs, sealed


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tr", ["train-adapter", "try-model"]),
        ("train-adapter --max-st", ["--max-steps"]),
        ("train-adapter --objective = w", ["weighted"]),
        ("train-adapter --mixture ", ["old"]),
        ("evaluate-adapter --run ", ["mine"]),
        ("score-corpus --sources letters,p", ["letters,press"]),
        ("corpus-to-model --sources wikipedia,us_", ["wikipedia,us_patents"]),
        ("corpus-to-model --recipe mac-1", ["mac-16gb"]),
        ("download-corpus --path ", []),
        ("nonsense --run ", []),
    ],
)
def test_what_exists_is_offered(
    typed: str, offered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path))
    monkeypatch.setattr("flows.arguments.may_name_a_store", lambda: False)
    sealed(tmp_path, "raw/letters", "raw/press", "balanced/old")
    finished_runs(tmp_path, "mine")
    assert candidates(typed.split(" ")) == offered


def test_bash_asks_the_program_whose_line_it_completes() -> None:
    typed = f"COMP_WORDS=({sys.executable} -m flows corpus-to-model --rec); COMP_CWORD=4"
    line = f'eval "$({sys.executable} -m flows --completion bash)"; {typed}; _distrust_words; echo "$COMPREPLY"'
    told = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("--recipe\n", "")


def test_a_shell_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion"]) == main(["--completion", "csh"]) == 2
    assert capsys.readouterr().err == 2 * f"--completion: name a shell: {', '.join(SCRIPTS)}\n"
