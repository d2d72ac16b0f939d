from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import ParameterError, PrerequisiteError, StoreError
from tasks.exports.forms import target_modules, write_peft
from tasks.exports.fuse import fuse_lazily
from tests.tasks.exports.conftest import KEYS, export, load_weights, write_adapter
from tests.tasks.exports.test_export import Specification, snapshot


class TestPeft:
    def test_its_formula_gives_the_fused_weights(self, float_base: Path, adapter: Path, tmp_path: Path) -> None:
        from safetensors.numpy import load_file

        write_peft(tmp_path, adapter, "someone/tiny-llama")
        written = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
        assert (written["peft_type"], written["r"], written["lora_alpha"]) == ("LORA", 4, 8.0)
        assert written["base_model_name_or_path"] == "someone/tiny-llama"
        weights = load_file(tmp_path / "peft" / "adapter_model.safetensors")
        base, fused = load_weights(float_base), fuse_lazily(float_base, adapter).weights
        modules = [name.removesuffix(".weight") for name in base if base[name].ndim == 2]
        # PEFT takes a module whose whole name matches the expression.
        chosen = [module for module in modules if re.fullmatch(written["target_modules"], module)]
        assert len(chosen) == len(weights) // 2 == 2 * len(KEYS)
        for module in chosen:
            a, b = (weights[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
            assert a.shape[0] == b.shape[1] == 4
            expected = np.array(base[f"{module}.weight"]) + written["lora_alpha"] / written["r"] * (b @ a)
            np.testing.assert_allclose(np.array(fused[f"{module}.weight"]), expected, rtol=1e-4, atol=1e-5)

    def test_layers_without_an_adapter_are_not_named(self) -> None:
        modules = {"model.layers.3.mlp.down_proj", "model.layers.10.mlp.down_proj", "model.layers.3.self_attn.q_proj"}
        expected = r"model\.layers\.(3|10)\.mlp\.down_proj|model\.layers\.(3)\.self_attn\.q_proj"
        assert target_modules(modules) == expected

    def test_another_kind_of_adapter(self, specification: Specification, float_base: Path, tmp_path: Path) -> None:
        other = write_adapter(float_base, tmp_path / "dora", fine_tune_type="dora")
        with pytest.raises(ParameterError, match="only a LoRA adapter has a PEFT form, this one is 'dora'"):
            export(specification | {"adapter": str(other)}, peft=True)
        assert not Path(specification["export_folder"]).exists(), "said before any work"


class TestOllama:
    def test_the_modelfile_names_the_gguf_file_and_the_layout(
        self, specification: Specification, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (Path(specification["adapter"]) / "state.json").write_text('{"layout": "guide"}')
        monkeypatch.setenv("PATH", str(tmp_path))
        said: list[str] = []
        result = export(specification, lambda event, **fields: said.append(fields["message"]), ollama=True)
        folder = Path(result.folder)
        assert (folder / "Modelfile").read_text() == (
            "FROM ./tiny-q8_0.gguf\n"
            'TEMPLATE """{{ if .System }}{{ .System }}\n\n{{ end }}'
            'User: {{ .Prompt }}\n\nAssistant:{{ .Response }}"""\n'
            'PARAMETER stop "User:"\n'
        )
        assert {"Modelfile", "tiny-q8_0.gguf"} <= {record.file for record in result.files}
        assert result.ollama is None and any("ollama create tiny -f Modelfile" in message for message in said)
        before = snapshot(folder)
        assert export(specification, ollama=True).reused and snapshot(folder) == before

    def test_every_export_is_registered(
        self, specification: Specification, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        # Ollama itself cannot be installed here: a program of its name notes how it is called.
        self.install(tmp_path / "bin", monkeypatch, f'echo "$PWD $*" >> {tmp_path}/calls\n')
        assert [export(specification, ollama=True, gguf="f16").ollama for _ in range(2)] == ["tiny", "tiny"]
        call = f"{specification['export_folder']} create tiny -f Modelfile"
        assert (tmp_path / "calls").read_text().splitlines() == [call] * 2, "it may hold another export of the name"

    def test_a_refusal_keeps_the_files(
        self, specification: Specification, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.install(tmp_path / "bin", monkeypatch, "echo could not connect to a running Ollama >&2; exit 1\n")
        with pytest.raises(PrerequisiteError, match=r"could not connect.*start Ollama"):
            export(specification, ollama=True)
        assert (Path(specification["export_folder"]) / "tiny-q8_0.gguf").is_file()

    @staticmethod
    def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        folder.mkdir()
        (folder / "ollama").write_text(f"#!/bin/sh\n{script}")
        (folder / "ollama").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


class TestLmStudio:
    def test_the_mlx_folder_alone_appears_two_levels_deep(self, specification: Specification, tmp_path: Path) -> None:
        models = tmp_path / "lm-studio"
        models.mkdir()
        wanted: dict[str, Any] = {"lm_studio_folder": str(models), "lm_studio_publisher": "me"}
        result = export(specification, **wanted, ollama=True, peft=True)
        folder = models / "me" / "tiny"
        assert result.lm_studio_folder == str(folder)
        left_out = {"tiny-q8_0.gguf", "Modelfile", "peft/adapter_model.safetensors", "peft/adapter_config.json"}
        assert snapshot(folder).keys() == snapshot(Path(result.folder)).keys() - left_out
        weights = "model.safetensors"
        assert (folder / weights).samefile(Path(result.folder) / weights), "weights take disk space only once"
        before = snapshot(folder)
        assert export(specification, **wanted).reused
        assert snapshot(folder) == before

    @pytest.mark.parametrize(
        ("folder", "publisher", "error", "message"),
        [
            ("none", "local", PrerequisiteError, "is not a folder"),
            ("models", "../up", ParameterError, "lm_studio_publisher"),
            ("models", "linked", ParameterError, "leads out of"),
            ("models", "theirs", StoreError, "is not an export"),
        ],
    )
    def test_a_place_that_is_not_for_this_export(
        self,
        specification: Specification,
        tmp_path: Path,
        folder: str,
        publisher: str,
        error: type[Exception],
        message: str,
    ) -> None:
        other = tmp_path / "models" / "theirs" / "tiny" / "model.gguf"
        other.parent.mkdir(parents=True)
        other.write_text("theirs")
        (tmp_path / "models" / "linked").symlink_to(tmp_path)
        with pytest.raises(error, match=message):
            export(specification, lm_studio_folder=str(tmp_path / folder), lm_studio_publisher=publisher)
        assert not Path(specification["export_folder"]).exists()
        assert other.read_text() == "theirs"
