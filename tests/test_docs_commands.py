"""Every command on the pages: run here, or held against the real command line."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.__main__ import BY_HAND, FLOWS, load_flow, main, parse
from flows.completion import SCRIPTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.remove(ROOT / "docs/log.md")  # tells of commands as they once were
PROGRAMS = ("python", "make", "prefect", "ollama", "mkdocs", "npm", "pip", "uv")
TABLE_WORDS = {"python", "make", "prefect"}
"""Program names that the pages mention without a command."""

RUN_HERE = (
    "python -m flows",
    "python -m flows download-corpus --list",
    "python -m flows train-adapter --model auto --plan",
    "python -m flows download-corpus --catalogue docs/examples/new_source/catalogue.toml --sources bench_notebooks",
    "python -m flows score-corpus --sources bench_notebooks --signal docs.examples.new_signal.first_person:score",
    "python -m flows score-corpus --explain bench_notebooks:1",
    "python -m docs.examples.new_suite.ask sandbox/base_model",
)


def commands() -> Iterator[tuple[str, str]]:
    """Every command with its page: shell fences, indented lines, and code spans that begin with a program or a flow."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in filter(None, map(str.strip, block.splitlines())):
                yield plain(line), str(page.relative_to(ROOT))
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for line in re.findall(r"^    (.+)$", prose, re.MULTILINE):
            if plain(line).split(" ")[0] in PROGRAMS:
                yield plain(line), str(page.relative_to(ROOT))
        for span in re.findall(r"`([^`\n]+)`", prose):
            command = plain(span)
            program = command.split(" ")[0]
            if program in (*FLOWS, *BY_HAND) and " --" in command:
                yield f"python -m flows {command}", str(page.relative_to(ROOT))
            elif program in PROGRAMS and command not in TABLE_WORDS:
                yield command, str(page.relative_to(ROOT))


def plain(line: str) -> str:
    """A command without its comment, spelt with ``python``."""
    line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", re.sub(r"\s+#.*", "", line))
    return line.replace(".venv/bin/", "").replace("\N{HORIZONTAL ELLIPSIS}", "WORD").strip()


COMMANDS = dict(commands())


@functools.cache
def help_of(module: str) -> str:
    words = [sys.executable, "-m", *module.split(" ")]
    return subprocess.run([*words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def hold_against_the_command_line(command: str) -> None:
    """Fail where a command names an option, a target or a parameter that is not there."""
    words = shlex.split(command.partition(" && ")[0])
    if words == ["python", "-m", "flows"]:
        return
    if words[:4] == ["python", "-m", "flows", "--completion"]:
        assert words[4] in SCRIPTS
        return
    if words[:3] == ["python", "-m", "flows"] and words[3] in FLOWS:
        if command == f"python -m flows {words[3]} --help":
            return
        # An option that is named without a value only has to be there.
        bare = words[-1].startswith("--") and words[-1][2:].replace("-", "_") in VALUED
        parse(words[3], load_flow(words[3]).fn.parameters_model, words[4:-1] if bare else words[4:])
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=True)
    elif words[:3] == ["python", "-m", "pytest"]:
        assert (ROOT / words[3]).is_file()
    elif words[:2] == ["python", "-m"]:
        module = "flows try-model" if words[2] == "flows" else " ".join(words[2 : 4 if words[2] == "mlx_lm" else 3])
        if not module.startswith("benchmarks."):
            assert set(re.findall(r"--[a-z-]+", command)) <= set(re.findall(r"--[a-z-]+", help_of(module)))
        else:
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    elif words[:3] == ["prefect", "deployment", "run"]:
        flow, deployment = words[3].split("/")
        declared = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
        assert flow == deployment and deployment in {entry["name"] for entry in declared}
        given = {word.split("=")[0] for word in words[4:] if "=" in word}
        assert given <= set(load_flow(flow).fn.parameters_model.model_fields)


VALUED = {"models", "objectives", "signal"}
"""Options that the pages name without giving a value."""


def test_commands_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for command in COMMANDS:
        try:
            hold_against_the_command_line(command)
        except (SystemExit, Exception) as error:
            wrong.append(f"{COMMANDS[command]}: {command}: {error!r} {capsys.readouterr().err}")
    assert wrong == []


@pytest.mark.prefect
def test_examples_and_looks_run_as_written(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path))
    told = {}
    for command in RUN_HERE:
        words = shlex.split(command)
        if words[2] != "flows":
            continue
        assert main(words[3:]) == 0, command
        told[command] = capsys.readouterr().out
    alone, listed, planned, fetched, scored, explained = told.values()
    assert "usage: python -m flows NAME" in alone and "us_patents" in listed and "peak" in planned
    assert "4 documents" in fetched and "1 rejected" in fetched
    assert "4 with a score of their own or of your signal" in scored
    assert "docs.examples.new_signal.first_person:score" in explained


def test_the_suite_of_ones_own_runs_as_written() -> None:
    command = next(command for command in RUN_HERE if "new_suite" in command)
    answer = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.findall(r"^(\w+) +base: (?:pass|fail|unscored)", answer.stdout, re.MULTILINE) == [
        "family_tree",
        "old_map",
    ]


def test_make_takes_its_own_variables_and_refuses_a_misspelt_one() -> None:
    own = re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"DOCUMENTS", "STORE"} <= {*own}
    taken = ["make", "-n", "help", *(f"{name}=1" for name in own if name != "PYTHON")]
    subprocess.run(taken, cwd=ROOT, capture_output=True, check=True)
    refused = subprocess.run(["make", "-n", "run", "DOCUMENT=letters"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode and "did you mean DOCUMENTS=" in refused.stderr
