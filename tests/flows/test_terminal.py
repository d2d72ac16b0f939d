"""What a person at the terminal sees: help, what is in the store, the story of a run, and the desktop."""

from __future__ import annotations

import io
import logging
import os
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import story, terminal
from flows.__main__ import main
from flows.arguments import FORMS, BadArguments, read
from flows.groups import ESSENTIALS, grouped
from flows.help import EXAMPLES
from tasks.policies import Progress
from tasks.rebalancing import MixtureResult
from tasks.sources.results import DownloadResult, SourceOutcome
from tests.flows.test_arguments import finished_runs, sealed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CI", "SSH_CONNECTION", "DISTRUST_DETAILS", "DISTRUST_DESKTOP", "DISTRUST_STORE", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("flows.arguments.may_name_a_store", lambda: False)
    monkeypatch.setattr(story, "SCREEN", None)
    yield
    Progress.watcher = None


@pytest.mark.parametrize("flow", FORMS)
def test_help_begins_with_examples_that_can_be_typed_and_the_essentials(
    flow: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([flow, "--help"]) == 0
    told = capsys.readouterr().out
    groups = [group for group, _ in grouped(flow, FORMS[flow].model_fields)]
    places = [told.index(f"\n{heading}:\n") for heading in ("Examples", *groups, "Always")]
    assert places == sorted(places) and groups[0] == ESSENTIALS
    for words in EXAMPLES[flow]:
        assert f"python -m flows {flow} {words}".rstrip() in told
        try:
            read(flow, [*shlex.split(words), "--store", str(tmp_path)])
        except BadArguments as error:  # there is nothing in the store yet, and no such folder
            missing = ("--run: ", "--mixture: ", "--path: ", "--sources: ", "--others: ")
            assert all(line.removeprefix("mac-32gb: ").startswith(missing) for line in str(error).splitlines())
    options = [line.split()[0] for line in told.splitlines() if line.startswith("  --")]
    assert len(options) == len(set(options)) == len(FORMS[flow].model_fields) + 2


@pytest.mark.parametrize(
    ("made", "runs", "then"),
    [
        ([], [], "corpus-to-model --recipe first-try"),
        (["raw/a", "raw/b", "scored/a"], [], "score-corpus  # 1 source is not"),
        (["raw/a", "scored/a"], [], "rebalance-corpus"),
        (["raw/a", "scored/a", "balanced/old"], [], "train-adapter --model auto --mixture old --plan"),
        (["raw/a", "scored/a", "balanced/default"], ["mine"], "evaluate-adapter --run mine"),
    ],
)
def test_alone_it_shows_what_is_in_the_store_and_what_to_type_next(
    made: list[str], runs: list[str], then: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    sealed(tmp_path, *made)
    finished_runs(tmp_path, *runs)
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path))
    assert main([]) == 0
    told = capsys.readouterr().out
    assert str(tmp_path) in told and f"python -m flows {then}" in told
    assert all(name.partition("/")[2] in told for name in made)


def test_a_finished_run_is_next_talked_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(tmp_path, "raw/a", "scored/a", "balanced/default")
    finished_runs(tmp_path, "mine")
    (tmp_path / "runs/mine/reports").mkdir()
    (tmp_path / "runs/mine/reports/report.html").touch()
    (tmp_path / "runs/begun").mkdir()
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path))
    main([])
    assert "flows try-model --run mine" in capsys.readouterr().out
    (tmp_path / "runs/begun/train.json").touch()
    main([])
    assert "flows train-adapter --run begun" in capsys.readouterr().out


def result_of_download() -> DownloadResult:
    whole = SourceOutcome(source="letters", band="low", documents=9, manifest="m")
    return DownloadResult(sources=[whole, SourceOutcome(source="press", band="high", problem="it is closed")])


def test_a_stage_is_one_line_that_is_rewritten_and_what_needs_an_eye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "REDRAW_SECONDS", 0.0)
    screen = Terminal()
    with story.screen(screen, quiet=False):
        pipeline = story.Story()
        pipeline.begin("download")
        Progress("download-letters", "letters").update(1, 4, "letters: 1 of 4")
        assert "\n" not in screen.getvalue(), "nothing has scrolled"
        assert screen.getvalue().endswith("1. Downloading 25 % 0 s letters: 1 of 4")
        pipeline.end("download", result_of_download())
        Progress("other", "other").update(1, 2, "nobody looks any more")
    shown = [line.rpartition(story.CLEAR)[2] for line in screen.getvalue().split("\n")]
    assert shown == [
        "1. Downloaded: 9 documents from 1 of 2 sources  (0 s)",
        "     press: incomplete: it is closed",
        "",
    ]
    assert "letters" in pipeline.told[0], "the whole is kept"


def test_a_command_of_one_stage_shows_how_far_it_is_too() -> None:
    screen = Terminal()
    with story.screen(screen, quiet=False):
        Progress("download-letters", "letters").update(1, 4, "letters: 1 of 4 documents; 2.00 MB/s")
        assert screen.getvalue().endswith("25 % letters: 1 of 4 documents; 2.00 MB/s")
    assert screen.getvalue().endswith(story.CLEAR) and Progress.watcher is None


def test_a_stage_that_found_everything_done_says_so() -> None:
    stream = io.StringIO()
    with story.screen(stream, quiet=False):
        whole = SourceOutcome(source="letters", band="low", documents=9, manifest="m", reused=True)
        story.Story().end("download", DownloadResult(sources=[whole]))
        mixture = MixtureResult(mixture="/m", digest="d", counts={}, reused=True, distribution="9 samples\nmore")
        story.Story().end("rebalance", mixture)
    download, balanced = stream.getvalue().splitlines()
    assert "9 documents from 1 of 1 sources, already complete" in download
    assert "9 samples (unchanged)" in balanced


def test_without_a_terminal_the_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with story.screen(stream, quiet=False):
        pipeline = story.Story()
        pipeline.begin("download")
        Progress("download-letters", "letters").update(1, 4)
        pipeline.end("download", result_of_download())
        assert "\x1b" not in stream.getvalue() and stream.getvalue().count("\n") == 3
        monkeypatch.setenv("DISTRUST_DETAILS", "1")
        pipeline.end("download", result_of_download())
        assert "letters  low" in stream.getvalue()


def test_quiet_means_no_words_of_other_peoples_libraries() -> None:
    shown, before = io.StringIO(), list(logging.getLogger().handlers)
    handler = logging.StreamHandler(shown)
    logging.getLogger().addHandler(handler)
    try:
        with story.screen(io.StringIO(), quiet=True):
            logging.getLogger("datasets").warning("a library's")
            logging.getLogger("prefect.task_runs").warning("the run's")
            logging.getLogger("datasets").error("an error")
        logging.getLogger("datasets").warning("behind it")
    finally:
        logging.getLogger().handlers = before
    assert shown.getvalue().split("\n") == ["the run's", "an error", "behind it", ""]


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desktop whose programs write down what they were asked."""
    for name in ("xdg-open", "notify-send"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s|" {name} "$@" >> {tmp_path}/asked\n')
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(platform="linux", stdout=Terminal()))
    return tmp_path / "asked"


def asked(file: Path) -> str:
    deadline = time.monotonic() + 5
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.05)
    return file.read_text() if file.exists() else ""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # nobody waits for a program of the desktop
def test_a_long_run_is_told_of_on_the_desktop(desktop: Path) -> None:
    terminal.notify("done", "a short one", 5)
    terminal.notify("train-adapter is done", "--icon=x; $(touch no)\nsecond line", 100)
    assert asked(desktop).endswith("--|train-adapter is done|--icon=x; $(touch no) second line|")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_report_opens_where_there_is_a_desktop_and_nowhere_else(
    desktop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = Terminal()
    for name, value in {"CI": "true", "DISTRUST_DESKTOP": "0", "SSH_CONNECTION": "x"}.items():
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert not terminal.on_desktop()
    with monkeypatch.context() as context:
        context.setattr(terminal.sys, "stdout", SimpleNamespace(isatty=lambda: False))
        assert not terminal.on_desktop()
        terminal.notify("done", "over SSH, nobody sees a note", 100)
        assert not rung.getvalue()
    with monkeypatch.context() as context:
        context.setenv("SSH_CONNECTION", "x")
        context.setattr(terminal.sys, "stdout", rung)
        terminal.notify("done", "over SSH, nobody sees a note", 100)
        assert rung.getvalue() == "\a"
    terminal.show_page(Path("report.html"))
    assert asked(desktop) == f"xdg-open|{Path('report.html').absolute()}|"
