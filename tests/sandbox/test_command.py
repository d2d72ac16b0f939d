"""The command line of the sandbox, around a pipeline that is not run here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sandbox import __main__ as sandbox

Given = list[tuple[Any, ...]]


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str, status: int = 3, own: int = 3) -> tuple[int, Given]:
    """Start the sandbox around pipelines that note what they are given and end with a status."""
    given: Given = []

    def ending(status: int) -> Any:
        async def run(*arguments: Any) -> int:
            given.append(arguments)
            return status

        return run

    monkeypatch.setattr(sandbox, "run", ending(status))
    monkeypatch.setattr(sandbox, "run_own", ending(own))
    monkeypatch.setattr(sys, "argv", ["sandbox", *arguments])
    return sandbox.main(), given


@pytest.mark.parametrize("option", ["--run", "--store", "--model", "--export", "--run=mine"])
def test_an_option_that_leads_past_what_is_shown_is_refused_before_anything_runs(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, "--", "--max-steps", "10", option, "mine") == (1, [])
    told = capsys.readouterr().err
    assert option.partition("=")[0] in told and "python -m flows corpus-to-model" in told


def test_a_run_that_is_not_there_afterwards_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path))
    assert start(monkeypatch, status=0)[0] == 1
    captured = capsys.readouterr()
    assert str(tmp_path) in captured.err and "Done" not in captured.out


def test_other_options_of_the_pipeline_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path))
    status, given = start(monkeypatch, "--base", "smollm2", "--", "--max-steps", "10")
    assert status == 3 and given[0][2:] == (["--max-steps", "10"], "smollm2")


@pytest.mark.parametrize(
    ("arguments", "chosen", "store"),
    [
        ((), None, "data-sandbox"),
        (("--documents", "mine"), None, "data-documents"),
        (("--documents", "~/mine"), None, "data-documents"),
        ((), "elsewhere", "elsewhere"),
    ],
)
def test_a_demonstration_keeps_to_a_store_of_its_own(
    arguments: tuple[str, ...],
    chosen: str | None,
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.jsonl.zst").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DISTRUST_STORE", raising=False)
    if chosen:
        monkeypatch.setenv("DISTRUST_STORE", chosen)
    status, ((_, layout, *_),) = start(monkeypatch, *arguments)
    assert status == 3 and layout.root == tmp_path / store


@pytest.mark.parametrize(
    ("name", "content", "is_archive"),
    [
        ("wikipedia.jsonl.zst", b"", True),
        ("mine.jsonl.zst", zstandard.compress(b'{"source_type": "wiki", "text": "t"}\n'), True),
        ("mine.jsonl.zst", zstandard.compress(b'{"text": "t"}\n'), False),
        ("mine.jsonl.zst", b"not packed", False),
        ("letter.txt", b"Dear Ada", False),
    ],
)
def test_a_folder_of_any_files_is_read_without_archives(
    name: str, content: bytes, is_archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_bytes(content)
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path / "store"))
    assert start(monkeypatch, "--documents", str(tmp_path / "own"), own=4)[0] == (3 if is_archive else 4)
