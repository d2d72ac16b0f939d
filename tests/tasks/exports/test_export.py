from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from storage.errors import ParameterError, PrerequisiteError, StoreError, UserError
from storage.untrusted import file_sha256
from tasks.exports.export import compare, fits_memory, measure_agreement, require_agreement
from tasks.exports.export_manifest import ExportManifest
from tests.tasks.exports.conftest import (
    CHAT_TEMPLATE,
    CONFIG,
    QWEN2,
    export,
    specify,
    write_adapter,
    write_base,
    write_quantised,
)

Specification = dict[str, Any]
ROOT = Path(__file__).parents[3]
FORMS = {"tiny-q8_0.gguf", "peft/adapter_model.safetensors", "peft/adapter_config.json"}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def generate_some(folder: Path) -> str:
    from mlx_lm import generate, load

    model, tokenizer = load(str(folder))
    return str(generate(model, tokenizer, "User: What do the records say?\n\nAssistant:", max_tokens=6))


class TestFloatExport:
    def test_opens_generates_and_says_what_it_is(self, specification: Specification) -> None:
        result = export(specification)
        folder = Path(result.folder)
        assert str(folder) == specification["export_folder"]
        assert result.top1_agreement is not None and result.max_logit_difference is not None
        assert not result.reused and result.top1_agreement >= 0.98 and 0 < result.max_logit_difference < 1e-3

        names = {record.file for record in result.files}
        assert names == snapshot(folder).keys() - {"export.json"}
        assert {"model.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json"} <= names
        assert {"README.md", "LICENSE", "generation_config.json"} <= names
        assert not any(name.endswith(".py") for name in names)
        for record in result.files:
            path = folder / record.file
            assert (record.bytes, record.sha256) == (path.stat().st_size, file_sha256(path))
        assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE
        assert isinstance(generate_some(folder), str)
        front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
        assert (front["base_model"], front["license"]) == ("someone/tiny-llama", "apache-2.0")

        manifest = ExportManifest.read(folder)
        assert manifest is not None and manifest.verification is not None and manifest.verification.tokens > 200
        assert {"adapter/adapters.safetensors", "base/model-00002-of-00002.safetensors"} <= manifest.inputs.keys()
        assert manifest.versions["mlx-lm"]

    def test_a_second_export_of_the_same_inputs_does_nothing(self, specification: Specification) -> None:
        first = export(specification)
        before = snapshot(Path(first.folder))
        # Neither the bound nor an unused group size changes what the weights are.
        second = export(specification, minimum_top1_agreement=0.5, group_size=32)
        assert snapshot(Path(first.folder)) == before
        assert second == first.model_copy(update={"reused": True, "seconds": second.seconds})

    def test_an_evaluation_after_the_export_refreshes_only_the_card(self, specification: Specification) -> None:
        folder = Path(export(specification).folder)
        assert "No evaluation was recorded" in (folder / "README.md").read_text()
        before = snapshot(folder)
        reports = Path(specification["reports_folder"])
        reports.mkdir()
        metric = {"value": 0.625, "standard_error": 0.05, "low": 0.5, "high": 0.75, "samples": 48}
        (reports / "evaluation_results.json").write_text(json.dumps({"source_preference": {"adapter": metric}}))

        result = export(specification)
        assert result.reused
        assert {name for name, state in snapshot(folder).items() if before[name] != state} == {
            "README.md",
            "export.json",
        }
        assert "| source_preference / adapter | 0.625 | 0.05 | 0.5 to 0.75 | 48 |" in (folder / "README.md").read_text()
        assert file_sha256(folder / "README.md") in {record.sha256 for record in result.files}

    def test_a_form_that_is_asked_for_later_is_added(self, specification: Specification) -> None:
        folder = Path(export(specification).folder)
        before = snapshot(folder)
        result = export(specification, gguf="q8_0", peft=True)
        assert not result.reused and result.gguf == str(folder / "tiny-q8_0.gguf")
        after = snapshot(folder)
        assert after["model.safetensors"] == before["model.safetensors"], "the weights were kept, not fused again"
        assert after.keys() - before.keys() == FORMS
        records = {record.file: record.sha256 for record in result.files}
        assert records == {name: file_sha256(folder / name) for name in after.keys() - {"export.json"}}
        assert export(specification, gguf="q8_0", peft=True).reused and export(specification).reused
        assert snapshot(folder) == after, "a form that is not asked for again stays"
        export(specification, gguf="f16")
        assert snapshot(folder).keys() - after.keys() == {"tiny-f16.gguf"}
        assert isinstance(generate_some(folder), str)

    def test_another_adapter_replaces_every_form(self, specification: Specification, float_base: Path) -> None:
        first = export(specification, gguf="q8_0", peft=True, ollama=True)
        other = write_adapter(float_base, Path(specification["run_folder"]) / "checkpoint-30", seed=12)
        second = export(specification | {"adapter": str(other)}, peft=True)
        names = [{record.file: record.sha256 for record in result.files} for result in (first, second)]
        assert names[0].keys() - names[1].keys() == {"tiny-q8_0.gguf", "Modelfile"}
        assert names[0]["model.safetensors"] != names[1]["model.safetensors"]
        folder = Path(second.folder)
        assert snapshot(folder).keys() == names[1].keys() | {"export.json"}
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]

    @pytest.mark.parametrize("name", ["model.safetensors", "tiny-q8_0.gguf"])
    def test_a_damaged_file_is_made_again(self, specification: Specification, name: str) -> None:
        result = export(specification, gguf="q8_0")
        (Path(result.folder) / name).write_bytes(b"cut")
        again = export(specification, gguf="q8_0")
        assert not again.reused and again.files == result.files


class TestQuantisedExport:
    @pytest.mark.parametrize("quantize", ["4bit", "8bit"])
    def test_opens_and_reports_its_agreement(self, specification: Specification, quantize: str) -> None:
        # Random weights lose much more to rounding than trained ones, hence the low bound.
        bounds = {"minimum_top1_agreement": 1.0, "minimum_top1_agreement_quantised": 0.3}
        result = export(specification, quantize=quantize, group_size=32, **bounds)
        config = json.loads((Path(result.folder) / "config.json").read_text())
        assert config["quantization"]["bits"] == int(quantize[0])
        assert result.max_logit_difference is not None and result.max_logit_difference > 1e-3
        assert result.top1_agreement is not None and 0.3 < result.top1_agreement <= 1
        assert isinstance(generate_some(Path(result.folder)), str)

    @pytest.mark.parametrize(
        ("group_size", "error", "message"),
        [
            (32, UserError, r"the bound is 0\.7; nothing was exported"),
            (64, ParameterError, r"group_size=64 .*down_proj is 96 wide.*use group_size=32"),
        ],
    )
    def test_what_cannot_be_quantised_well_is_refused(
        self, specification: Specification, group_size: int, error: type[UserError], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            export(specification, quantize="4bit", group_size=group_size)
        assert list(Path(specification["export_folder"]).parent.iterdir()) == []


@pytest.mark.parametrize("config", [CONFIG, QWEN2], ids=["llama", "qwen2"])
@pytest.mark.parametrize("four_bit", [False, True], ids=["float", "4-bit"])
def test_mlx_and_transformers_open_every_family(config: dict[str, Any], four_bit: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = write_base(tmp_path / "float", config)
    base = write_quantised(tmp_path / "base", base) if four_bit else base
    specification = specify(base, write_adapter(base, tmp_path / "adapter"), tmp_path)
    result = export(specification, minimum_top1_agreement_quantised=0.3)
    folder = Path(result.folder)
    assert ("quantised again alike" in result.precision) == four_bit
    assert ("The sum stays float32" in result.precision) != four_bit
    assert result.precision in (folder / "README.md").read_text()
    assert result.max_logit_difference is not None and (0 < result.max_logit_difference < 1e-3) != four_bit
    assert isinstance(generate_some(folder), str)
    assert ("quantization" in json.loads((folder / "config.json").read_text())) == four_bit

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert tokenizer.decode(tokenizer.encode("the record of 1891")) == "the record of 1891"
    messages = [{"role": "user", "content": "Why?"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "user: Why?\n"


def test_a_base_without_a_chat_template_gets_the_trained_layout(tmp_path: Path) -> None:
    from mlx_lm.utils import load_tokenizer

    base = write_base(tmp_path / "base", CONFIG)
    (base / "chat_template.jinja").unlink()
    folder = Path(export(specify(base, write_adapter(base, tmp_path / "a"), tmp_path)).folder)
    turns = [("system", "Be brief."), ("user", "Why?"), ("assistant", "So."), ("user", "And?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = load_tokenizer(folder).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "Be brief.\n\nUser: Why?\n\nAssistant: So.\n\nUser: And?\n\nAssistant:"


class TestNothingIsLeftBehind:
    def test_a_fused_model_that_disagrees(self, specification: Specification, half_base: Path) -> None:
        specification |= {"model_path": str(half_base)}
        result = export(specification, minimum_top1_agreement=0.5)
        folder = Path(result.folder)
        before = snapshot(folder)
        assert result.top1_agreement is not None
        assert 0.5 < result.top1_agreement < 1, "rounding to bfloat16 flips some near-ties"
        with pytest.raises(UserError, match=r"the bound is 1\.0; nothing was exported"):
            export(specification | {"export_folder": str(folder.with_name("other"))}, minimum_top1_agreement=1.0)
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
        assert snapshot(folder) == before

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
    def test_a_process_that_is_ended(self, specification: Specification, tmp_path: Path, how: signal.Signals) -> None:
        folder = Path(specification["export_folder"])
        leftover = folder.parent / ".tmp-0123abcd-tiny"
        leftover.mkdir(parents=True)
        (tmp_path / "spec.json").write_text(json.dumps(specification))
        code = (  # stands still once the weights are written
            "import runpy, signal, tasks.exports.fuse as room\n"
            "write = room.write_weights\n"
            "def write_and_pause(folder, *rest):\n"
            "    write(folder, *rest)\n"
            "    print('paused', folder.name, flush=True)\n"
            "    signal.pause()\n"
            "room.write_weights = write_and_pause\n"
            "runpy.run_module('tasks.exports', run_name='__main__')\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "spec.json")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        paused_at = next(line.split()[1] for line in process.stdout if line.startswith("paused "))
        assert paused_at.startswith(".tmp-") and paused_at != leftover.name
        assert not leftover.exists(), "the next export deletes what a killed one left"
        process.send_signal(how)
        process.communicate(timeout=30)
        told = how == signal.SIGTERM
        assert process.returncode == (128 + how if told else -how)
        assert [path.name for path in folder.parent.iterdir()] == ([] if told else [paused_at])
        assert not export(specification).reused
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


class TestRefused:
    @pytest.mark.parametrize("place", ["run_folder", "model_path", "balanced_folder"])
    @pytest.mark.parametrize(
        "beside", [lambda path: path, lambda path: path / "export", lambda path: path.parent], ids=["is", "in", "holds"]
    )
    def test_an_export_over_its_inputs(
        self, specification: Specification, place: str, beside: Callable[[Path], Path]
    ) -> None:
        with pytest.raises(ParameterError, match=r"overlaps|plain name"):
            export(specification | {"export_folder": str(beside(Path(specification[place])))})

    def test_a_link_in_the_place_of_the_export(self, specification: Specification, tmp_path: Path) -> None:
        folder = Path(specification["export_folder"])
        folder.parent.mkdir()
        folder.symlink_to(tmp_path)
        with pytest.raises(ParameterError, match="is a link"):
            export(specification)

    def test_a_folder_that_is_not_an_export(self, specification: Specification) -> None:
        folder = Path(specification["export_folder"])
        folder.mkdir(parents=True)
        (folder / "thesis.txt").write_text("years of work")
        with pytest.raises(StoreError, match="is not an export"):
            export(specification)
        assert (folder / "thesis.txt").read_text() == "years of work"

    @pytest.mark.parametrize("wanted", [{"quantize": "8bit", "group_size": 32}, {"gguf": "q8_0"}])
    def test_to_replace_files_of_somebody_else(self, specification: Specification, wanted: dict[str, Any]) -> None:
        mine = Path(export(specification).folder) / "peft" / "mine.txt"
        mine.parent.mkdir()
        mine.write_text("mine")
        assert export(specification).reused
        with pytest.raises(StoreError, match=r"also holds peft/mine\.txt"):
            export(specification, **wanted)
        assert mine.read_text() == "mine"

    def test_a_missing_base_or_adapter(self, specification: Specification, tmp_path: Path) -> None:
        with pytest.raises(PrerequisiteError, match=r"holds no config\.json"):
            export(specification | {"model_path": str(tmp_path / "gone")})
        with pytest.raises(StoreError, match=r"adapters\.safetensors.*take another checkpoint"):
            export(specification | {"adapter": str(tmp_path / "gone")})


class TestAgreement:
    def test_positions_and_differences_are_counted(self) -> None:
        expected = [np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[3.0, 2.0]], np.float32)]
        found = [np.array([[1.0, 0.5], [1.0, 0.0]], np.float32), np.array([[3.0, 2.0]], np.float32)]
        assert compare(expected, iter(found)).model_dump() == pytest.approx(
            {"tokens": 3, "max_logit_difference": 1.0, "mean_logit_difference": 1.25 / 3, "top1_agreement": 2 / 3}
        )

    def test_values_that_are_not_numbers_are_never_an_agreement(self) -> None:
        found = compare([np.zeros((1, 2))], iter([np.array([[0.0, np.nan]])]))
        with pytest.raises(UserError, match="not numbers"):
            require_agreement(found, "minimum_top1_agreement", 0.0)

    def test_an_unfused_base_is_told_apart(self, float_base: Path, adapter: Path) -> None:
        result = measure_agreement(float_base, adapter, float_base)
        assert result.tokens > 200 and result.max_logit_difference > 0.5 and result.top1_agreement < 0.9

    def test_models_beyond_the_memory_are_not_opened(self) -> None:
        assert fits_memory(2**20) and not fits_memory(2**60)
