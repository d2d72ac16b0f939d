from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from storage.errors import ParameterError, PrerequisiteError, StoreError, UserError
from tasks.exports import gguf_file
from tasks.exports.fuse import fuse_lazily
from tasks.exports.gguf_file import check_gguf, gguf_bytes, rope_factors, write_gguf
from tasks.exports.gguf_tokenizer import SMOLLM, SPLIT_RULES, read_tokenizer
from tests.clients.llama_cpp import MODULES, LlamaCpp, install_quantiser
from tests.tasks.exports.conftest import (
    CHAT_TEMPLATE,
    CONFIG,
    LINEAR,
    LLAMA3,
    MISTRAL,
    QWEN2,
    TEXT,
    export,
    forget,
    specify,
    write_adapter,
    write_base,
    write_quantised,
)

FAMILIES = {"llama": CONFIG, "llama3": LLAMA3, "linear": LINEAR, "mistral": MISTRAL, "qwen2": QWEN2}
WIDE = CONFIG | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 512}
PROMPT = "User: What do the records of the harbour say about the flood of 1891?\n\nAssistant:"
TEXTS = [
    "the record  of\n\nthe engineer's 12345 notes",
    "Tab\tand naïve café, 漢字, Ünïcödé 🙂\r\n  'tis IT'S 1,000.5",
    " leading and trailing ",
]
TOKENS = 24


def greedy(folder: Path, count: int = TOKENS) -> tuple[list[int], list[int]]:
    """The prompt's ids and MLX's greedy continuation."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load

    model, tokenizer = load(str(folder))
    prompt = tokenizer.encode(PROMPT)
    return prompt, [int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=count)]


def write_file(folder: Path, config: dict[str, Any], kind: str, rule: str | None = None) -> Path:
    """Write a random model of a configuration with an adapter, and its GGUF file; return that file."""
    base = folder / "base" if (folder / "base").exists() else write_base(folder / "base", config, rule)
    write_gguf(folder / "m.gguf", base, fuse_lazily(base, write_adapter(base, folder / "a")), kind, forget)
    return folder / "m.gguf"


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_continues_as_mlx_does(name: str, tmp_path: Path, llama: LlamaCpp) -> None:
    base = write_base(tmp_path / "base", FAMILIES[name])
    # Of the seeds 11 to 13 the one whose best two tokens are never within half precision of each other.
    folder = Path(export(specify(base, write_adapter(base, tmp_path / "a", seed=12), tmp_path), gguf="f16").folder)
    prompt, expected = greedy(folder)
    found = llama.open_gguf(folder / "tiny-f16.gguf", prompt, TOKENS, TEXTS)
    assert len(prompt) + TOKENS > 64, "long enough for stretched positions to matter"
    assert len(set(expected)) > 3
    assert found["greedy"] == expected
    assert found["architecture"] == ("qwen2" if name == "qwen2" else "llama")
    assert (found["chat_template"], found["eos"], found["adds_bos"]) == (CHAT_TEMPLATE, 0, False)


@pytest.mark.parametrize("config", [CONFIG, QWEN2], ids=["llama", "qwen2"])
def test_a_four_bit_base_is_rounded_only_once(config: dict[str, Any], tmp_path: Path, llama: LlamaCpp) -> None:
    base = write_quantised(tmp_path / "base-4bit", write_base(tmp_path / "base", config))
    specification = specify(base, write_adapter(base, tmp_path / "adapter"), tmp_path)
    folder = Path(export(specification, gguf="f16", dequantize=True).folder)
    prompt, expected = greedy(folder)
    assert llama.open_gguf(folder / "tiny-f16.gguf", prompt, TOKENS)["greedy"] == expected


@pytest.mark.parametrize("rule", [None, SMOLLM, *SPLIT_RULES], ids=["gpt-2", SMOLLM, *SPLIT_RULES.values()])
def test_llama_cpp_tokenises_as_the_tokenizer_does(rule: str | None, tmp_path: Path, llama: LlamaCpp) -> None:
    from mlx_lm.utils import load_tokenizer

    file = write_file(tmp_path, CONFIG, "f16", rule)
    tokenizer = load_tokenizer(tmp_path / "base")
    found = llama.open_gguf(file, tokenizer.encode(PROMPT), 1, TEXTS)
    assert found["texts"] == [tokenizer.encode(text) for text in TEXTS]


def test_llama_cpp_tokenises_sentence_pieces_as_the_tokenizer_does(tmp_path: Path, llama: LlamaCpp) -> None:
    from mlx_lm.utils import load_tokenizer

    base = write_base(tmp_path / "base", MISTRAL | {"vocab_size": 400})
    write_sentence_pieces(base)
    file = write_file(tmp_path, MISTRAL, "f16")
    tokenizer = load_tokenizer(base)
    texts = [text for text in TEXTS if not text.startswith(" ")]
    ids = [tokenizer.encode(text) for text in texts]
    assert ids[0][0] == tokenizer.bos_token_id
    assert len(ids[0]) < 0.7 * len(texts[0]), "merges are at work"
    found = llama.open_gguf(file, tokenizer.encode(PROMPT), 1, texts)
    assert found["adds_bos"] is True
    assert found["texts"] == [row[1:] for row in ids]


def write_sentence_pieces(folder: Path) -> None:
    """Write a tokenizer of the kind of Llama 2 and Mistral 7B: pieces with a space mark, bytes for the rest."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

    special = ["<unk>", "<s>", "</s>"]
    text = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(text)
    trainer = trainers.BpeTrainer(vocab_size=90, show_progress=False)
    trained.train_from_iterator(TEXT, trainer)
    learned = json.loads(trained.to_str())["model"]
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += sorted(learned["vocab"], key=learned["vocab"].get)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(text)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))


def test_k_quants_come_from_llama_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, llama: LlamaCpp) -> None:
    import gguf

    programs = install_quantiser(tmp_path / "bin")
    monkeypatch.setenv("LLAMA_CPP_MODULES", str(MODULES))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    base = write_base(tmp_path / "base", WIDE)
    folder = Path(export(specify(base, write_adapter(base, tmp_path / "a"), tmp_path), gguf="q4_k_m").folder)
    assert not list(folder.glob("*.f16")), "the halves are only a step on the way"
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(folder / "tiny-q4_k_m.gguf").tensors}
    assert kinds == {"F32", "Q4_K", "Q6_K"}
    assert len(llama.open_gguf(folder / "tiny-q4_k_m.gguf", [40, 41, 42], 8)["greedy"]) > 0


def test_a_quantiser_that_fails(monkeypatch: pytest.MonkeyPatch, specification: dict[str, Any], tmp_path: Path) -> None:
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UserError, match="status 3: no such thing"):
        export(specification, gguf="q6_k")
    assert list((tmp_path / "exports").iterdir()) == []


class TestBlockFormats:
    ERRORS: ClassVar = {"f16": 5e-4, "bf16": 4e-3, "q8_0": 8e-3, "q4_0": 0.11}
    """Largest relative rounding error (root mean square) of a weight."""

    @pytest.mark.parametrize("kind", ERRORS)
    def test_weights_come_back_within_the_rounding(self, kind: str, tmp_path: Path) -> None:
        import gguf

        file = write_file(tmp_path, QWEN2, kind)
        weights = fuse_lazily(tmp_path / "base", tmp_path / "a").weights
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
        assert len(tensors) == len(weights)
        pairs = {
            "model.embed_tokens.weight": "token_embd.weight",
            "lm_head.weight": "output.weight",
            "model.layers.1.self_attn.k_proj.weight": "blk.1.attn_k.weight",
            "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        }
        for ours, theirs in pairs.items():
            expected = np.array(weights[ours])
            found = gguf.quants.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
            error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
            assert 0 < error < self.ERRORS[kind], ours
        eight = gguf.GGMLQuantizationType.Q8_0
        assert (tensors["token_embd.weight"].tensor_type == eight) == (kind in ("q8_0", "q4_0"))
        bias = np.array(weights["model.layers.0.self_attn.q_proj.bias"])
        np.testing.assert_array_equal(tensors["blk.0.attn_q.bias"].data, bias)

    @pytest.mark.parametrize("kind", ["bf16", "q8_0", "q4_0"])
    def test_llama_cpp_opens_them(self, kind: str, tmp_path: Path, llama: LlamaCpp) -> None:
        file = write_file(tmp_path, CONFIG, kind)
        assert len(llama.open_gguf(file, [40, 41, 42], 8)["greedy"]) > 0

    def test_rows_that_blocks_do_not_fit_stay_halves(self, tmp_path: Path) -> None:
        import gguf

        file = write_file(tmp_path, CONFIG | {"intermediate_size": 72}, "q4_0")
        kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
        assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q4_0")
        assert kinds["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize(("config", "neighbours"), [(CONFIG, True), (QWEN2, False)], ids=["llama", "qwen2"])
def test_queries_meet_keys_as_in_mlx_under_the_rotation_of_llama_cpp(
    config: dict[str, Any], neighbours: bool, tmp_path: Path
) -> None:
    """llama.cpp rotates neighbours of a llama's head against each other, MLX the first half against the second."""
    import gguf

    file = write_file(tmp_path, config | {"num_hidden_layers": 1}, "f16")
    stored = {
        one.name: np.array(gguf.quants.dequantize(one.data, one.tensor_type)) for one in gguf.GGUFReader(file).tensors
    }
    weights = fuse_lazily(tmp_path / "base", tmp_path / "a").weights
    states, places = np.random.default_rng(3).normal(size=(2, 64)).astype(np.float32), np.array([3, 11])

    def rotated(rows: Any, bias: Any, neighbours: bool) -> Any:
        heads = (states @ np.array(rows).T + np.array(bias)).reshape(2, -1, 16)
        pairs = (
            heads.reshape(*heads.shape[:2], 8, 2)
            if neighbours
            else heads.reshape(*heads.shape[:2], 2, 8).swapaxes(2, 3)
        )
        turns = np.exp(1j * places[:, None] * config["rope_theta"] ** (-np.arange(8) / 8))
        return (pairs[..., 0] + 1j * pairs[..., 1]) * turns[:, None]

    def scores(weights: Any, query: str, key: str, neighbours: bool) -> Any:
        """How much each head's query at the first place meets the key at the second; a key serves two heads."""
        q, k = (
            rotated(weights[f"{name}.weight"], weights.get(f"{name}.bias", 0.0), neighbours) for name in (query, key)
        )
        return (q[0] * np.repeat(k[1], 2, axis=0).conj()).sum(axis=-1).real

    attention = "model.layers.0.self_attn"
    expected = scores(weights, f"{attention}.q_proj", f"{attention}.k_proj", False)
    found = scores(stored, "blk.0.attn_q", "blk.0.attn_k", neighbours)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("change", "rule", "message"),
    [
        ({"model_type": "gemma2"}, None, "'gemma2' cannot be written to GGUF; supported are llama, mistral, qwen2"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, None, "rope scaling 'dynamic'"),
        ({"rope_traditional": True}, None, "rope_traditional"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, None, "sliding attention"),
        ({}, r"\p{L}+|\p{N}", r"known are llama-bpe, qwen2, tekken, smollm, gpt-2"),
    ],
)
def test_a_model_that_llama_cpp_would_compute_differently(
    change: dict[str, Any], rule: str | None, message: str, float_base: Path, adapter: Path, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", CONFIG, rule)
    (base / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ParameterError, match=message):
        export(specify(base, adapter, tmp_path), gguf="f16")
    assert not (tmp_path / "exports").exists(), "said before any work"


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"needs the tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="294 ids but the model 200"):
        write_file(tmp_path, CONFIG | {"vocab_size": 200}, "f16")


def test_a_value_beyond_half_precision(tmp_path: Path) -> None:
    import mlx.core as mx

    base = write_base(tmp_path / "base", CONFIG)
    adapter = write_adapter(base, tmp_path / "a")
    weights: Any = mx.load(str(adapter / "adapters.safetensors"))
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {name: 300 * w for name, w in weights.items()})
    with pytest.raises(ParameterError, match=r"proj\.weight holds a value beyond 65504"):
        write_gguf(tmp_path / "m.gguf", base, fuse_lazily(base, adapter), "f16", forget)
    write_gguf(tmp_path / "m.gguf", base, fuse_lazily(base, adapter), "bf16", forget)


def test_k_quants_without_llama_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, float_base: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteError, match=r"llama-quantize, which is not installed; .*q8_0"):
        check_gguf("q4_k_m", float_base)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_the_room_on_disk_is_not_underestimated(kind: str, tmp_path: Path) -> None:
    file = write_file(tmp_path, WIDE | {"vocab_size": 2000}, kind)
    expected = gguf_bytes(fuse_lazily(tmp_path / "base", tmp_path / "a"), kind)
    assert expected / 1.4 < file.stat().st_size - 60_000 < expected, "60 kB of vocabulary"


@pytest.mark.parametrize(
    ("sizes", "fraction"),
    [({"num_hidden_layers": 12}, 8), ({"num_hidden_layers": 1, "vocab_size": 20_000}, 4)],
    ids=["deep", "a large vocabulary"],
)
def test_memory_is_bounded_by_rows_of_a_tensor(
    sizes: dict[str, int], fraction: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the widths of a 70B model the head alone is 2.1 GB as floats."""
    import mlx.core as mx

    monkeypatch.setattr(gguf_file, "ENCODED_VALUES", 2**16)
    base = write_quantised(tmp_path / "base-4bit", write_base(tmp_path / "base", WIDE | sizes))
    adapter = write_adapter(base, tmp_path / "a")
    gc.collect()
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    gc.disable()  # the bound must not depend on when the collector happens to run
    try:
        model = fuse_lazily(base, adapter, dequantize=True)
        size = model.bytes
        write_gguf(tmp_path / "m.gguf", base, model, "q8_0", forget)
    finally:
        gc.enable()
    assert mx.get_peak_memory() - held < size / fraction


def test_stretched_wavelengths_are_the_published_ones(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", LLAMA3)
    factors = rope_factors(fuse_lazily(base, write_adapter(base, tmp_path / "a")).arguments)
    assert factors is not None
    wavelengths = 2 * np.pi * 10000.0 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(factors[wavelengths < 16], 1, rtol=1e-6)
    np.testing.assert_allclose(factors[wavelengths > 64], 8, rtol=1e-6)
    between = (wavelengths > 16) & (wavelengths < 64)
    smooth = (64 / wavelengths[between] - 1) / 3
    np.testing.assert_allclose(factors[between], 1 / ((1 - smooth) / 8 + smooth), rtol=1e-5)
    assert between.any()
