from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.errors import ParameterError, PrerequisiteError, StoreError, UserError
from storage.events import parse_event
from storage.untrusted import file_sha256
from tasks.exports.export import export_model
from tasks.exports.manifest import read_export
from tests.tasks.exports.conftest import CHAT_TEMPLATE, Emit, write_adapter

Specification = dict[str, Any]
ROOT = Path(__file__).parents[3]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def generate_some(folder: Path) -> str:
    from mlx_lm import generate, load

    model, tokenizer = load(str(folder))
    return str(generate(model, tokenizer, "User: What do the records say?\n\nAssistant:", max_tokens=6))


class TestFloatExport:
    def test_opens_generates_and_says_what_it_is(self, specification: Specification, emit: Emit) -> None:
        result = export_model(specification, emit)
        folder = Path(result["folder"])
        assert str(folder) == specification["export_folder"]
        assert result["reused"] is False
        assert result["top1_agreement"] >= 0.98
        assert 0 < result["max_logit_difference"] < 1e-3
        assert result["seconds"] > 0
        assert result["lm_studio_folder"] is None

        names = {record["file"] for record in result["files"]}
        assert names == {path.name for path in folder.iterdir()} - {"export.json"}
        assert {"model.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json"} <= names
        assert {"README.md", "LICENSE", "generation_config.json"} <= names
        assert not any(name.endswith(".py") for name in names)
        for record in result["files"]:
            path = folder / record["file"]
            assert (record["bytes"], record["sha256"]) == (path.stat().st_size, file_sha256(path))
        assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE
        assert isinstance(generate_some(folder), str)

        manifest = read_export(folder)
        assert manifest is not None
        assert manifest.verification is not None
        assert manifest.verification["tokens"] > 200
        assert "adapter/adapters.safetensors" in manifest.inputs
        assert "base/model-00002-of-00002.safetensors" in manifest.inputs
        assert manifest.versions["mlx-lm"]

    def test_a_second_export_of_the_same_inputs_does_nothing(self, specification: Specification, emit: Emit) -> None:
        first = export_model(specification, emit)
        before = snapshot(Path(first["folder"]))
        # Neither the bound nor an unused group size changes what the weights are.
        specification["parameters"] = {"minimum_top1_agreement": 0.5, "group_size": 32}
        second = export_model(specification, emit)
        assert second["reused"] is True
        assert snapshot(Path(first["folder"])) == before
        assert second["files"] == first["files"]
        assert second["max_logit_difference"] == first["max_logit_difference"]

    def test_an_evaluation_after_the_export_refreshes_only_the_card(
        self, specification: Specification, emit: Emit
    ) -> None:
        folder = Path(export_model(specification, emit)["folder"])
        assert "No evaluation was recorded" in (folder / "README.md").read_text()
        before = snapshot(folder)
        reports = Path(specification["reports_folder"])
        reports.mkdir()
        metric = {"value": 0.625, "standard_error": 0.05, "low": 0.5, "high": 0.75, "samples": 48}
        (reports / "evaluation_results.json").write_text(json.dumps({"source_preference": {"adapter": metric}}))

        result = export_model(specification, emit)
        assert result["reused"] is True
        changed = {name for name, state in snapshot(folder).items() if before[name] != state}
        assert changed == {"README.md", "export.json"}
        assert "| source_preference / adapter | 0.625 | 0.05 | 0.5 to 0.75 | 48 |" in (folder / "README.md").read_text()
        card = next(record for record in result["files"] if record["file"] == "README.md")
        assert card["sha256"] == file_sha256(folder / "README.md")

    def test_another_adapter_is_another_export(
        self, specification: Specification, float_base: Path, emit: Emit
    ) -> None:
        first = export_model(specification, emit)
        write_adapter(float_base, Path(specification["run_folder"]) / "checkpoint-30", seed=12)
        second = export_model(specification | {"adapter": "checkpoint-30"}, emit)
        assert second["reused"] is False
        shas = [{r["file"]: r["sha256"] for r in result["files"]}["model.safetensors"] for result in (first, second)]
        assert shas[0] != shas[1]
        assert [path.name for path in Path(first["folder"]).parent.iterdir()] == ["tiny"]

    def test_a_damaged_export_is_made_again(self, specification: Specification, emit: Emit) -> None:
        folder = Path(export_model(specification, emit)["folder"])
        (folder / "model.safetensors").write_bytes(b"cut")
        assert export_model(specification, emit)["reused"] is False
        assert isinstance(generate_some(folder), str)


class TestQuantisedExport:
    @pytest.mark.parametrize("quantize", ["4bit", "8bit"])
    def test_opens_and_reports_its_agreement(self, specification: Specification, emit: Emit, quantize: str) -> None:
        # Random weights lose much more to rounding than trained ones, hence the low bound.
        bounds = {"minimum_top1_agreement": 1.0, "minimum_top1_agreement_quantised": 0.3}
        specification["parameters"] = {"quantize": quantize, "group_size": 32, **bounds}
        result = export_model(specification, emit)
        folder = Path(result["folder"])
        config = json.loads((folder / "config.json").read_text())
        assert config["quantization"]["bits"] == int(quantize[0])
        assert result["max_logit_difference"] > 1e-3
        assert 0.3 < result["top1_agreement"] <= 1
        assert isinstance(generate_some(folder), str)

    def test_too_much_rounding_is_refused(self, specification: Specification, emit: Emit) -> None:
        specification["parameters"] = {"quantize": "4bit", "group_size": 32}
        with pytest.raises(UserError, match=r"the bound is 0\.7; nothing was exported"):
            export_model(specification, emit)
        assert list(Path(specification["export_folder"]).parent.iterdir()) == []

    def test_the_group_size_is_checked_before_anything_is_written(
        self, specification: Specification, emit: Emit
    ) -> None:
        specification["parameters"] = {"quantize": "4bit", "group_size": 128}
        with pytest.raises(ParameterError, match="use group_size=32"):
            export_model(specification, emit)
        assert list(Path(specification["export_folder"]).parent.iterdir()) == []

    def test_a_four_bit_base_dequantised(self, specification: Specification, four_bit_base: Path, emit: Emit) -> None:
        specification |= {"model_path": str(four_bit_base), "parameters": {"dequantize": True}}
        result = export_model(specification, emit)
        config = json.loads((Path(result["folder"]) / "config.json").read_text())
        assert not {"quantization", "quantization_config"} & config.keys()
        assert isinstance(generate_some(Path(result["folder"])), str)


class TestNothingIsLeftBehind:
    def test_a_fused_model_that_disagrees(self, specification: Specification, half_base: Path, emit: Emit) -> None:
        specification["parameters"] = {"minimum_top1_agreement": 0.5}
        result = export_model(specification | {"model_path": str(half_base)}, emit)
        folder = Path(result["folder"])
        before = snapshot(folder)
        assert 0.5 < result["top1_agreement"] < 1, "rounding to bfloat16 flips some near-ties"

        specification |= {"model_path": str(half_base), "parameters": {"minimum_top1_agreement": 1.0}}
        with pytest.raises(UserError, match=r"the bound is 1\.0; nothing was exported"):
            export_model(specification | {"export_folder": str(folder.with_name("other"))}, emit)
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
        assert snapshot(folder) == before

    def test_a_process_that_is_told_to_stop(self, specification: Specification, tmp_path: Path) -> None:
        folder = Path(specification["export_folder"])
        leftover = folder.parent / ".tmp-0123abcd-tiny"
        leftover.mkdir(parents=True)
        process, paused_at = self.start(specification, tmp_path)
        assert paused_at.startswith(".tmp-") and paused_at != leftover.name
        assert not leftover.exists(), "what a killed export left is swept by the next"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGTERM
        assert list(folder.parent.iterdir()) == []

    def test_a_process_that_is_killed(self, specification: Specification, tmp_path: Path, emit: Emit) -> None:
        folder = Path(specification["export_folder"])
        process, paused_at = self.start(specification, tmp_path)
        process.kill()
        process.communicate(timeout=30)
        assert [path.name for path in folder.parent.iterdir()] == [paused_at]
        assert export_model(specification, emit)["reused"] is False
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]

    @staticmethod
    def start(specification: Specification, tmp_path: Path) -> tuple[subprocess.Popen[str], str]:
        """Start an export that stands still once its weights are written; return it and its temporary folder."""
        spec_file = tmp_path / "spec.json"
        spec_file.write_text(json.dumps(specification))
        code = (
            "import runpy, signal, tasks.exports.mlx_folder as room\n"
            "write = room.write_weights\n"
            "def write_and_pause(folder, *rest):\n"
            "    write(folder, *rest)\n"
            "    print('paused', folder.name, flush=True)\n"
            "    signal.pause()\n"
            "room.write_weights = write_and_pause\n"
            "runpy.run_module('tasks.exports', run_name='__main__')\n"
        )
        command = [sys.executable, "-c", code, str(spec_file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("paused "):
                return process, line.split()[1]
        raise AssertionError(f"the export ended early with {process.wait()}")


class TestChild:
    def test_the_last_event_is_the_result(self, specification: Specification, tmp_path: Path) -> None:
        spec_file = tmp_path / "spec.json"
        spec_file.write_text(json.dumps(specification))
        command = [sys.executable, "-m", "tasks.exports", str(spec_file)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=True)
        events = [parse_event(line) for line in done.stdout.splitlines()]
        assert events[-1]["event"] == "result"
        assert events[-1]["folder"] == specification["export_folder"]
        assert {event["stage"] for event in events if event["event"] == "progress"} == {"hash", "fuse", "verify"}

    def test_choices_load_no_model_library(self) -> None:
        code = "import sys, tasks.exports.parameters; assert not {'mlx', 'mlx_lm', 'transformers'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


class TestPaths:
    @pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", ""])
    def test_an_adapter_outside_the_run(self, specification: Specification, emit: Emit, name: str) -> None:
        with pytest.raises(ParameterError, match="adapter"):
            export_model(specification | {"adapter": name}, emit)

    @pytest.mark.parametrize("place", ["run_folder", "model_path", "balanced_folder"])
    def test_an_export_over_or_inside_its_inputs(self, specification: Specification, emit: Emit, place: str) -> None:
        for folder in (Path(specification[place]), Path(specification[place]) / "export"):
            with pytest.raises(ParameterError, match="overlaps"):
                export_model(specification | {"export_folder": str(folder)}, emit)
        with pytest.raises(ParameterError, match=r"overlaps|plain name"):
            export_model(specification | {"export_folder": str(Path(specification[place]).parent)}, emit)

    def test_a_link_is_not_followed(self, specification: Specification, emit: Emit, tmp_path: Path) -> None:
        target = tmp_path / "precious"
        target.mkdir()
        folder = Path(specification["export_folder"])
        folder.parent.mkdir()
        folder.symlink_to(target)
        with pytest.raises(ParameterError, match="is a link"):
            export_model(specification, emit)

    def test_a_folder_that_is_no_export_is_kept(self, specification: Specification, emit: Emit) -> None:
        folder = Path(specification["export_folder"])
        folder.mkdir(parents=True)
        (folder / "thesis.txt").write_text("years of work")
        with pytest.raises(StoreError, match="is not an export"):
            export_model(specification, emit)
        assert (folder / "thesis.txt").read_text() == "years of work"

    def test_files_of_somebody_else_are_kept(self, specification: Specification, emit: Emit) -> None:
        folder = Path(export_model(specification, emit)["folder"])
        (folder / "notes.txt").write_text("mine")
        assert export_model(specification, emit)["reused"] is True
        specification["parameters"] = {"quantize": "8bit", "group_size": 32}
        with pytest.raises(StoreError, match=r"also holds notes\.txt"):
            export_model(specification, emit)
        assert (folder / "notes.txt").read_text() == "mine"

    def test_a_missing_base_says_so(self, specification: Specification, emit: Emit, tmp_path: Path) -> None:
        with pytest.raises(PrerequisiteError, match="holds no model"):
            export_model(specification | {"model_path": str(tmp_path / "gone")}, emit)

    @pytest.mark.parametrize("bad", [{"quantize": "3bit"}, {"group_size": 48}, {"unknown": 1}])
    def test_parameters_out_of_bounds(self, specification: Specification, emit: Emit, bad: dict[str, Any]) -> None:
        with pytest.raises(ParameterError, match=next(iter(bad))):
            export_model(specification | {"parameters": bad}, emit)


class TestLmStudio:
    def test_the_model_appears_two_levels_deep(self, specification: Specification, emit: Emit, tmp_path: Path) -> None:
        models = tmp_path / "lm-studio"
        models.mkdir()
        specification["parameters"] = {"lm_studio_folder": str(models), "lm_studio_publisher": "me"}
        result = export_model(specification, emit)
        folder = models / "me" / "tiny"
        assert result["lm_studio_folder"] == str(folder)
        assert {p.name for p in folder.iterdir()} == {p.name for p in Path(result["folder"]).iterdir()}
        weights = "model.safetensors"
        assert (folder / weights).samefile(Path(result["folder"]) / weights), "weights take disk space only once"
        before = snapshot(folder)
        assert export_model(specification, emit)["reused"] is True
        assert snapshot(folder) == before

    def test_a_models_folder_that_does_not_exist(
        self, specification: Specification, emit: Emit, tmp_path: Path
    ) -> None:
        specification["parameters"] = {"lm_studio_folder": str(tmp_path / "none")}
        with pytest.raises(PrerequisiteError, match="is no folder"):
            export_model(specification, emit)
        assert not Path(specification["export_folder"]).exists()

    def test_a_publisher_that_climbs_or_leads_away(
        self, specification: Specification, emit: Emit, tmp_path: Path
    ) -> None:
        models = tmp_path / "lm-studio"
        models.mkdir()
        (models / "linked").symlink_to(tmp_path)
        for publisher, message in (("../up", "lm_studio_publisher"), ("linked", "leads out of")):
            specification["parameters"] = {"lm_studio_folder": str(models), "lm_studio_publisher": publisher}
            with pytest.raises(ParameterError, match=message):
                export_model(specification, emit)

    def test_a_model_of_somebody_else_is_kept(self, specification: Specification, emit: Emit, tmp_path: Path) -> None:
        other = tmp_path / "lm-studio" / "local" / "tiny"
        other.mkdir(parents=True)
        (other / "model.gguf").write_text("theirs")
        specification["parameters"] = {"lm_studio_folder": str(tmp_path / "lm-studio")}
        with pytest.raises(StoreError, match="is not an export"):
            export_model(specification, emit)
        assert (other / "model.gguf").read_text() == "theirs"


def test_card_in_the_export(specification: Specification, emit: Emit) -> None:
    folder = Path(export_model(specification, emit)["folder"])
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["base_model"] == "someone/tiny-llama"
    assert front["license"] == "apache-2.0"
