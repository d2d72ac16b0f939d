from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import ParameterError, PrerequisiteError, StoreError
from storage.untrusted import file_sha256
from tasks.exports.export import export_model
from tasks.exports.fuse import fuse_lazily
from tasks.exports.peft import peft_config, write_peft
from tests.tasks.exports.conftest import CONFIG, KEYS, QWEN2, Emit, specify, write_adapter, write_base, write_quantised
from tests.tasks.exports.test_export import Specification, generate_some, snapshot


def all_files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestAddedLater:
    def test_only_what_is_missing_is_made(self, specification: Specification, emit: Emit) -> None:
        folder = Path(export_model(specification, emit)["folder"])
        before = all_files(folder)
        specification["parameters"] = {"gguf": "q8_0", "peft": True}
        result = export_model(specification, emit)
        assert result["reused"] is False
        assert result["gguf"] == str(folder / "tiny-q8_0.gguf")
        after = all_files(folder)
        assert after["model.safetensors"] == before["model.safetensors"], "the weights were kept, not fused again"
        added = {"tiny-q8_0.gguf", "peft/adapter_model.safetensors", "peft/adapter_config.json"}
        assert after.keys() - before.keys() == added
        records = {record["file"]: record for record in result["files"]}
        assert records.keys() == after.keys() - {"export.json"}
        for name in added:
            assert records[name]["sha256"] == file_sha256(folder / name)
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]

        assert export_model(specification, emit)["reused"] is True
        assert all_files(folder) == after
        specification["parameters"] = {}
        assert export_model(specification, emit)["reused"] is True
        assert all_files(folder) == after, "a form that is not asked for again stays"
        specification["parameters"] = {"gguf": "f16"}
        export_model(specification, emit)
        assert all_files(folder).keys() - after.keys() == {"tiny-f16.gguf"}
        assert isinstance(generate_some(folder), str)

    def test_other_weights_replace_every_form(self, specification: Specification, float_base: Path, emit: Emit) -> None:
        specification["parameters"] = {"gguf": "q8_0", "peft": True, "ollama": True}
        folder = Path(export_model(specification, emit)["folder"])
        write_adapter(float_base, Path(specification["run_folder"]) / "checkpoint-30", seed=12)
        specification["parameters"] = {"peft": True}
        export_model(specification | {"adapter": "checkpoint-30"}, emit)
        assert not (folder / "tiny-q8_0.gguf").exists() and not (folder / "Modelfile").exists()
        assert (folder / "peft" / "adapter_config.json").is_file()

    def test_files_of_somebody_else_stop_it(self, specification: Specification, emit: Emit) -> None:
        folder = Path(export_model(specification, emit)["folder"])
        (folder / "peft").mkdir()
        (folder / "peft" / "mine.txt").write_text("mine")
        specification["parameters"] = {"gguf": "q8_0"}
        with pytest.raises(StoreError, match=r"also holds peft/mine\.txt"):
            export_model(specification, emit)
        assert (folder / "peft" / "mine.txt").read_text() == "mine"

    def test_a_damaged_form_is_made_again(self, specification: Specification, emit: Emit) -> None:
        specification["parameters"] = {"gguf": "q8_0"}
        result = export_model(specification, emit)
        path = Path(result["gguf"])
        path.write_bytes(b"GGUF")
        again = export_model(specification, emit)
        assert again["reused"] is False
        assert path.stat().st_size > 1000
        assert again["files"] == result["files"]


@pytest.mark.parametrize("config", [CONFIG, QWEN2], ids=["llama", "qwen2"])
@pytest.mark.parametrize("four_bit", [False, True], ids=["float", "4-bit"])
class TestClients:
    def test_mlx_and_transformers_open_every_family(
        self, config: dict[str, Any], four_bit: bool, tmp_path: Path, emit: Emit
    ) -> None:
        from transformers import AutoTokenizer

        base = write_base(tmp_path / "float", config)
        base = write_quantised(tmp_path / "base", base) if four_bit else base
        adapter = write_adapter(base, tmp_path / "adapter")
        bounds = {"minimum_top1_agreement_quantised": 0.3}
        result = export_model(specify(base, adapter, tmp_path, **bounds), emit)
        folder = Path(result["folder"])
        assert ("quantised again alike" in result["precision"]) == four_bit
        assert ("The sum stays float32" in result["precision"]) != four_bit
        assert result["precision"] in (folder / "README.md").read_text()
        assert (0 < result["max_logit_difference"] < 1e-3) != four_bit
        assert isinstance(generate_some(folder), str)
        assert ("quantization" in json.loads((folder / "config.json").read_text())) == four_bit

        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        text = "the record of 1891"
        assert tokenizer.decode(tokenizer.encode(text)) == text
        messages = [{"role": "user", "content": "Why?"}]
        assert tokenizer.apply_chat_template(messages, tokenize=False) == "user: Why?\n"

    def test_untouched_layers_of_a_four_bit_base_are_copied(
        self, config: dict[str, Any], four_bit: bool, tmp_path: Path
    ) -> None:
        import mlx.core as mx

        base = write_base(tmp_path / "float", config)
        base = write_quantised(tmp_path / "base", base) if four_bit else base
        fused = fuse_lazily(base, write_adapter(base, tmp_path / "adapter")).weights
        before: Any = mx.load(str(base / "model.safetensors"))
        touched = {f"model.layers.{layer}.{key}" for layer in (0, 1) for key in KEYS}
        for name, value in before.items():
            if name.rsplit(".", 1)[0] not in touched:
                assert mx.array_equal(fused[name], value).item(), name
        assert touched <= {name.rsplit(".", 1)[0] for name in before}


class TestPeft:
    def test_its_formula_gives_the_fused_weights(self, float_base: Path, adapter: Path, tmp_path: Path) -> None:
        import re

        import mlx.core as mx
        from safetensors.numpy import load_file

        config = json.loads((adapter / "adapter_config.json").read_text())
        write_peft(tmp_path / "peft", adapter, config, {"model": "someone/tiny-llama"})
        written = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
        assert (written["peft_type"], written["r"], written["lora_alpha"]) == ("LORA", 4, 8.0)
        assert written["base_model_name_or_path"] == "someone/tiny-llama"
        weights = load_file(tmp_path / "peft" / "adapter_model.safetensors")
        base: dict[str, Any] = {}
        for path in float_base.glob("model*.safetensors"):
            shard: Any = mx.load(str(path))
            base |= shard
        fused = fuse_lazily(float_base, adapter).weights
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
        pattern = peft_config(modules, {"rank": 8, "scale": 0.5}, "b")["target_modules"]
        assert pattern == r"model\.layers\.(3|10)\.mlp\.down_proj|model\.layers\.(3)\.self_attn\.q_proj"

    def test_another_kind_of_adapter(self, adapter: Path, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match="only a LoRA adapter has a PEFT form"):
            write_peft(tmp_path / "peft", adapter, {"fine_tune_type": "dora"}, {})


class TestOllama:
    def test_the_modelfile_names_the_gguf_file_and_the_layout(
        self, specification: Specification, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        said: list[str] = []
        specification["parameters"] = {"ollama": True}
        result = export_model(specification, lambda event, **fields: said.append(fields["message"]))
        folder = Path(result["folder"])
        assert (folder / "Modelfile").read_text() == (
            "FROM ./tiny-q8_0.gguf\n"
            'TEMPLATE """{{ if .System }}{{ .System }}\n\n{{ end }}'
            'User: {{ .Prompt }}\n\nAssistant: {{ .Response }}"""\n'
            'PARAMETER stop "User:"\n'
        )
        assert (folder / "tiny-q8_0.gguf").is_file()
        assert "Modelfile" in {record["file"] for record in result["files"]}
        assert result["ollama"] is None
        assert any("ollama create tiny -f Modelfile" in message for message in said)
        before = all_files(folder)
        assert export_model(specification, lambda *_, **__: None)["reused"] is True
        assert all_files(folder) == before

    def test_the_program_is_told_of_every_export(
        self, specification: Specification, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, emit: Emit
    ) -> None:
        # Ollama itself cannot be installed here: a program of its name notes how it is called.
        self.install(tmp_path / "bin", monkeypatch, f'echo "$PWD $*" >> {tmp_path}/calls\n')
        specification["parameters"] = {"ollama": True, "gguf": "f16"}
        assert export_model(specification, emit)["ollama"] == "tiny"
        assert export_model(specification, emit)["ollama"] == "tiny"
        folder = specification["export_folder"]
        calls = [line.removeprefix(f"{folder} ") for line in (tmp_path / "calls").read_text().splitlines()]
        assert calls == ["create tiny -f Modelfile"] * 2, "it may hold the weights of another export of the name"

    def test_a_refusal_keeps_the_files(
        self, specification: Specification, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, emit: Emit
    ) -> None:
        self.install(tmp_path / "bin", monkeypatch, "echo could not connect to a running Ollama >&2; exit 1\n")
        specification["parameters"] = {"ollama": True}
        with pytest.raises(PrerequisiteError, match=r"could not connect.*start Ollama"):
            export_model(specification, emit)
        assert (Path(specification["export_folder"]) / "tiny-q8_0.gguf").is_file()

    @staticmethod
    def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        folder.mkdir()
        (folder / "ollama").write_text(f"#!/bin/sh\n{script}")
        (folder / "ollama").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_lm_studio_gets_the_mlx_folder_alone(specification: Specification, emit: Emit, tmp_path: Path) -> None:
    models = tmp_path / "lm-studio"
    models.mkdir()
    specification["parameters"] = {"lm_studio_folder": str(models), "ollama": True, "peft": True}
    folder = Path(export_model(specification, emit)["lm_studio_folder"])
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "export.json"} <= names
    assert not any(name.endswith(".gguf") or name in ("Modelfile", "peft") for name in names)
    before = snapshot(folder)
    export_model(specification, emit)
    assert snapshot(folder) == before


def test_a_base_without_a_chat_template_gets_the_trained_layout(tmp_path: Path, emit: Emit) -> None:
    from mlx_lm.utils import load_tokenizer

    base = write_base(tmp_path / "base", CONFIG)
    (base / "chat_template.jinja").unlink()
    folder = Path(export_model(specify(base, write_adapter(base, tmp_path / "a"), tmp_path), emit)["folder"])
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And?"},
    ]
    text = load_tokenizer(folder).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "Be brief.\n\nUser: Why?\n\nAssistant: So.\n\nUser: And?\n\nAssistant:"
