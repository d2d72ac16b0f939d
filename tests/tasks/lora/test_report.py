"""What a person sees of a run or of several: the bar, the lines, the pictures, the trackers, the table."""

from __future__ import annotations

import io
import sys
import xml.etree.ElementTree as ET
from base64 import b64decode
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.errors import ParameterError, PrerequisiteError
from storage.parquet import write_shard
from storage.training_result import TrainingResult
from tasks.lora.comparison import MOST_VARIANTS, ComparedRun, Comparison, suffix_of, variants
from tasks.lora.display import (
    METRICS,
    METRICS_SCHEMA,
    TERM_COLUMNS,
    StepReport,
    as_data_url,
    draw_lines,
    gap_line,
    loss_lines,
    move_bar,
    read_metrics,
    round_values,
    training_bar,
)
from tasks.lora.recipe import Recipe
from tasks.lora.report import open_tracker
from tests.tasks.lora.running import events_of, rows, specify
from tests.tasks.lora.tiny_model import tiny_recipe

REPORT = StepReport(
    step=500,
    max_steps=10_000,
    total=68.2341,
    ce=2.5,
    distrust=65.7341,
    tokens_per_second=168.54,
    peak_memory_gb=45.16,
    seconds_left=14_270.0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_the_guides_numbers_on_a_terminal_only_and_leaves_its_line_to_the_log() -> None:
    terminal = Terminal()
    with training_bar(terminal) as bar:
        bar.clear()
        assert not terminal.getvalue().strip(), "nothing is drawn before the first report"
        move_bar(bar, REPORT.model_copy(update={"step": 490}))
        move_bar(bar, REPORT)
        bar.clear()
        terminal.write("a line of the log\n")
    first, last, _ = terminal.getvalue().split("\n")
    assert first.rpartition("\r")[2] == "a line of the log"
    assert "Training:   5%" in last and "500/10000" in last
    assert "loss=68.2341, ce=2.5000, distrust=65.7341, tok/s=168.5, mem=45.2GB" in last
    with training_bar(io.StringIO()) as bar:
        assert bar.disable
    assert REPORT.line.startswith("step 500/10000: loss=68.2341") and REPORT.line.endswith("3:57:50 left")


def test_tensorboard_gets_what_metrics_hold(base: Path, mixture: Path, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    run = tmp_path / "runs" / "run"
    assert events_of(specify(run, mixture, tiny_recipe(base, max_steps=4, report_to="tensorboard")))[0] == 0
    scalars: dict[str, list[tuple[int, float]]] = {}
    for file in (run / "tensorboard").glob("events.*"):
        content = file.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert scalars["train/cross_entropy"] == [(row["step"], pytest.approx(row["ce"])) for row in rows(run, "train")]
    assert [step for step, _ in scalars["valid/valid_ce_low"]] == [0, 3, 4]
    assert {"train/train_loss", "train/learning_rate", "train/peak_memory", "valid/val_loss"} <= scalars.keys()


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_tracker(Recipe(), tmp_path)("train", 1, {})  # files alone need nothing
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PrerequisiteError, match=r"wandb needs a library .*uv sync --extra tracking"):
        open_tracker(Recipe(report_to="wandb"), tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(PrerequisiteError, match="tensorboard needs a library"):
        open_tracker(Recipe(report_to="tensorboard"), tmp_path)


def test_a_picture_holds_every_line_in_its_plot() -> None:
    svg = draw_lines("A & B", {"first": [(0, 1.0), (10, 3.0)], "<x>": [(0, 2.0), (5, float("nan")), (10, 2.5)]}, "nats")
    assert svg is not None
    root = ET.fromstring(svg)
    lines = [element.get("points", "").split() for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert lines == [["56.0,316.0", "720.0,40.0"], ["56.0,178.0", "720.0,109.0"]]
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A & B", "<x>", "step", "nats", "1", "3"} <= set(texts)
    assert b64decode(as_data_url(svg).split(",", 1)[1]).decode() == svg
    assert draw_lines("nothing", {"one point": [(0, 1.0)]}, "nats") is None
    assert draw_lines("flat", {"a": [(0, 1.0), (1, 1.0)]}, "nats") is not None
    assert round_values(0.13, 0.92) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_curves_come_from_the_metrics(tmp_path: Path) -> None:
    assert loss_lines(read_metrics(tmp_path))["training"] == [], "a run that has reported nothing yet"
    valid = {"step": 0, "kind": "valid", "valid_ce": 2.0, "valid_ce_low": 2.0, "valid_ce_high": 2.5}
    table = pa.Table.from_pylist([valid, {"step": 1, "kind": "train", "ce": 1.0}], schema=METRICS_SCHEMA)
    assert loss_lines(table)["validation"] == [(0, 2.0)] and loss_lines(table)["training"] == [(1, 1.0)]
    assert gap_line(table) == [(0, 0.5)]
    earlier = pa.schema([field for field in METRICS_SCHEMA if field.name not in TERM_COLUMNS])
    write_shard(tmp_path / METRICS, table.select(earlier.names), earlier)
    assert read_metrics(tmp_path).equals(table), "a run from before there were terms"


def test_variants_are_every_combination_and_their_names_are_plain() -> None:
    found = variants(Recipe(), {"alpha": [2.5, 2.9, 2.5], "objective": [], "model": ["org/Base-7B", "~/m/my model/"]})
    assert list(found) == ["alpha2.5-Base-7B", "alpha2.5-my_model", "alpha2.9-Base-7B", "alpha2.9-my_model"]
    assert found["alpha2.9-my_model"].alpha == 2.9 and found["alpha2.5-Base-7B"].model == "org/Base-7B"
    assert suffix_of({"model": "../../etc/passwd"}) == "passwd"


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"alpha": [], "model": []}, "nothing is compared: give values for at least one of alpha, model"),
        ({"alpha": [2.0, 2.5, 3.5]}, r"alpha=2\.0: .*2\.3; alpha=3\.5: .*3"),
        ({"model": ["a/base", "b/base"]}, "the same run name"),
        ({"model": [f"m{n}" for n in range(MOST_VARIANTS + 1)]}, "65 runs are more than 64"),
    ],
)
def test_what_cannot_be_compared_is_named(choices: dict[str, Any], named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        variants(Recipe(), choices)


def test_a_comparison_shows_how_far_the_voices_moved_apart_and_what_failed(tmp_path: Path) -> None:
    result = TrainingResult.model_construct(
        steps=9,
        seconds=3.5,
        effective_sample_share=0.31,
        valid_ce_before=2.0,
        valid_ce_after=1.5,
        valid_ce_low_before=2.0,
        valid_ce_low_after=1.2,
        valid_ce_high_before=2.0,
        valid_ce_high_after=1.9,
    )
    row = ComparedRun.of("a", result)
    assert row.gap == pytest.approx(0.7)
    assert ComparedRun.of("b", result.model_copy(update={"valid_ce_low_after": None})).gap is None
    failed = ComparedRun(run="c", problem="no | such\nmodel")
    compared = Comparison(folder=tmp_path, rows=[row, failed], pictures=[tmp_path / "effect.svg"])
    text = compared.markdown().splitlines()
    assert "| a | 9 | 2.000 -> 1.500 | 2.000 -> 1.200 | 2.000 -> 1.900 | +0.700 | 31% | 3.5 |  |" in text
    assert text[-1].endswith(r"| no \| such model |")
    assert compared.summary()[2].startswith("c ") and compared.summary()[3] == f"picture {tmp_path / 'effect.svg'}"
