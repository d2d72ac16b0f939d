"""Every flow command of the README and of docs/commands.md, run as it stands there, in one store.

The sandbox's archives and its tiny model take the place of the real ones;
sizes that fit them, and the catalogue of its archives, replace options of the commands.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from flows.__main__ import FLOWS, main
from sandbox.__main__ import BASE_MODEL, BUNDLED_DOCUMENTS, TINY
from tests.test_docs_commands import COMMANDS, ROOT, commands

pytestmark = [pytest.mark.drill, pytest.mark.prefect, pytest.mark.timeout(900)]

LEARN = {name: TINY[name] for name in list(TINY)[: list(TINY).index("max-new-tokens")]}
LEARN |= {"model": str(BASE_MODEL), "max-steps": "4"}
ASK = {"max-new-tokens": "8", "eval-limit": "4", "perplexity-samples": "4", "eval-batch-size": "48"}
# The README's order is the reader's; this is one in which each command finds what it works on.
FLOW_COMMANDS: dict[str, dict[str, str]] = {
    "check-setup": {},
    "download-corpus --list": {},
    "download-corpus --dry-run": {"catalogue": "catalogue.toml"},
    "download-corpus": {"catalogue": "catalogue.toml", "rate-limit": "1000"},
    "download-corpus --max-samples 30000": {"catalogue": "catalogue.toml", "rate-limit": "1000"},
    "download-corpus --retry-failed": {"catalogue": "catalogue.toml", "rate-limit": "1000"},
    "download-corpus --refresh": {"catalogue": "catalogue.toml", "rate-limit": "1000"},
    "download-corpus --path DIR": {"path": "letters", "store": "letters-only"},
    "download-corpus --subjects mine.txt": {
        **{"catalogue": "catalogue.toml", "rate-limit": "1000", "subjects": "mine.txt"},
        **{"store": "by-subject", "sources": "wikipedia"},
    },
    "score-corpus --no-coordination": {},
    "score-corpus": {},
    "score-corpus --explain wikipedia": {},
    "score-corpus --explain wikipedia:12": {"explain": "wikipedia:wikipedia-0000"},
    "score-corpus --signal my_signals:score": {},
    "rebalance-corpus --mixture old --last-year 1969 --accept-imbalance": {},
    "rebalance-corpus --train-size 80000 --val-size 20000": {"train-size": "400", "val-size": "100"},
    "rebalance-corpus": {},
    "train-adapter --model auto --plan": {},
    "train-adapter --model auto --plan --memory-gb 32": {},
    "train-adapter --recipe mac-32gb --plan --memory-gb 32": {},
    "train-adapter --model auto --max-steps 10000 --alpha 2.7": LEARN | {"save-every": "2"},
    "evaluate-adapter": ASK,
    "evaluate-adapter --questions quiz.jsonl,more/": ASK,
    "evaluate-adapter --others checkpoint-500,other-run": ASK | {"others": "checkpoint-2"},
    "export-model": {},
    "export-model --gguf q8_0": {},
    "export-model --peft": {},
    "export-model --ollama": {},
    "export-model --lm-studio-folder ~/.lmstudio/models": {},
    "export-model --hub-repository ME/NAME": {},
    "compare-recipes --objectives weighted,additive --alphas 2.7": LEARN | {"models": str(BASE_MODEL)},
    "check-setup --fix": {},
}
"""Commands behind ``python -m flows``, and what is laid over each."""
OTHER_COMMANDS: dict[str, dict[str, str]] = {
    "python -m mlx_lm generate --model data/exports/distrust --prompt 'Which sources should I trust?'": {},
    "python -m tasks.exports.serve distrust --check": {},
    "python -m flows try-model": {"prompt": "Which source is most reliable?", "max-new-tokens": "8"},
}
PAGES = ("README.md", "docs/commands.md")
NOT_HERE = {
    "python -m flows download-corpus --subjects bundled": "the same with 410 subjects",
    "python -m flows evaluate-adapter --lm-eval-tasks default": "data of the Hub; tests/tasks/evals/test_harness.py",
    "python -m flows download-corpus --sources historical_newspapers --bulk": "the sandbox serves no bulk files; "
    "tests/tasks/sources/test_newspaper_batches.py reads some",
    "python -m flows corpus-to-model --model auto --max-steps 10000": "what `make run` does; tests/test_end_to_end.py",
    "python -m flows corpus-to-model --path DIR": "tests/flows/test_own_documents.py",
    "python -m flows corpus-to-model --recipe mac-32gb": "likewise; tests/flows/test_recipes.py reads the gallery",
    "python -m flows --completion fish | source": "tests/flows/test_completion.py",
    "python -m flows corpus-to-model --recipe first-try": "likewise; tests/flows/test_recipes.py reads the gallery",
    "python -m flows corpus-to-model --recipe data/runs/distrust/corpus-to-model.toml": "likewise",
}
LATE = ("score-corpus --signal my_signals:score",)
"""Commands that change what later ones find, and so come behind them."""


class Reader:
    """A person in a folder of their own, who types what the README says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def type(self, command: str, laid_over: Mapping[str, str] | None = None) -> str:
        """Give one command, with other values for some of its options; return what it prints."""
        words = shlex.split(command)
        for option, value in (laid_over or {}).items():
            if f"--{option}" in words:
                words[words.index(f"--{option}") + 1] = value
            else:
                words += [f"--{option}", value]
        words = [word.replace("~", str(self.folder)) if word.startswith("~/") else word for word in words]
        # The Hub's library keeps the address that it found when it was imported, perhaps by another test.
        if words[:3] == ["python", "-m", "flows"] and words[3] in FLOWS.keys() - {"download-corpus"}:
            status = main(words[3:])  # in this process: loading Prefect 30 times would take minutes
            printed = self.capsys.readouterr()
            assert status == 0, f"{command}\n{printed.out}{printed.err}"
            return printed.out
        answer = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
        assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
        return answer.stdout


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> Iterator[Reader]:
    """A folder with a catalogue and a signal, and the sandbox's archives."""
    for name in [name for name in os.environ if name.startswith("DISTRUST_")]:
        monkeypatch.delenv(name)
    serve = [sys.executable, "-m", "sandbox.archives", str(BUNDLED_DOCUMENTS)]
    serve += ["--catalogue", str(tmp_path / "catalogue.toml"), "--unavailable-items"]
    archives = subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert archives.stdout is not None
        own = {"HF_HOME": str(tmp_path / "hf-home"), "DISTRUST_BLOCKS": "none-saved", "HOME": str(tmp_path)}
        own["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        own["PYTHONPATH"] = f"{ROOT}:{tmp_path}"
        for name, value in (json.loads(archives.stdout.readline())["environment"] | own).items():
            monkeypatch.setenv(name, value)
        (tmp_path / ".lmstudio" / "models").mkdir(parents=True)  # LM Studio makes it when it starts first
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters" / "1862.txt").write_text(
            "Camp near the river, 3 May 1862. Dear Mary, we marched all day."
        )
        (tmp_path / "mine.txt").write_text("# Mine\nrailway station\nRudkin Award\n")
        (tmp_path / "more").mkdir()
        for quiz in ("quiz.jsonl", "more/two.jsonl"):
            (tmp_path / quiz).write_text('{"question": "Which is older?", "options": ["1850", "1950"], "answer": 0}')
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "ollama").write_text("#!/bin/sh\nexit 0\n")  # Ollama itself is not installed everywhere
        (tmp_path / "bin" / "ollama").chmod(0o755)
        signal = "def score(documents):\n    return {'auth_weight': [0.5] * documents.num_rows}\n"
        (tmp_path / "my_signals.py").write_text(signal)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)
        yield Reader(tmp_path, capsys)
    finally:
        archives.terminate()
        archives.communicate()


def test_every_command_of_these_pages_is_run_or_says_why_not() -> None:
    shown = {command for command, page in commands() if page in PAGES and command.startswith("python -m flows ")}
    run = {f"python -m flows {command}" for command in FLOW_COMMANDS}
    assert shown == (run | set(NOT_HERE) | {"python -m flows try-model"})
    assert set(OTHER_COMMANDS) <= set(COMMANDS)


def test_the_readme_runs_as_it_stands(reader: Reader) -> None:
    told = {}
    for command, laid_over in FLOW_COMMANDS.items():
        if command not in LATE:
            told[command] = reader.type(f"python -m flows {command}", laid_over)
    assert "us_patents" in told["download-corpus --list"]
    # Of the patents nobody knows beforehand how many are old enough.
    assert "856 documents" in told["download-corpus --dry-run"] and "900 documents" in told["download-corpus"]
    assert (
        "1 document" in told["download-corpus --path DIR"] and "wikipedia:" in told["score-corpus --explain wikipedia"]
    )
    assert "900 documents" in told["score-corpus"]
    assert "wikipedia:wikipedia-0000" in told["score-corpus --explain wikipedia:12"]
    assert "peak" in told["train-adapter --model auto --plan --memory-gb 32"]
    assert (reader.folder / "data/runs/distrust/reports/report.html").is_file()
    exported = reader.folder / "data/exports/distrust"
    assert {path.name for path in exported.iterdir()} >= {"config.json", "Modelfile", "peft", "distrust-q8_0.gguf"}
    assert list((reader.folder / ".lmstudio/models").rglob("config.json"))
    for command, laid_over in OTHER_COMMANDS.items():
        assert reader.type(command, laid_over)
    for command in LATE:
        assert "900 with a score of their own or of your signal" in reader.type(f"python -m flows {command}")
