"""The tokenizer part of a GGUF file: vocabulary, merges, token types, special tokens and chat template.

llama.cpp splits text before merging by a rule that it knows by name, so a tokenizer is accepted only if its own
rule is exactly one of the known ones: a file that opens but tokenises differently would be worse than none.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from storage.chat_layout import ChatLayout
from storage.errors import ParameterError, StoreError
from storage.model_folder import MOST_VOCABULARY_BYTES
from storage.untrusted import read_object

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS_AND_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SPLIT_RULES = {
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + WORDS_AND_SPACES: "llama-bpe",
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + WORDS_AND_SPACES: "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    + WORDS_AND_SPACES.replace(r"[\r\n]*|", r"[\r\n/]*|", 1): "tekken",
}
"""llama.cpp's name of a rule by the regular expression that ``tokenizer.json`` holds."""
SMOLLM = "smollm"
SMOLLM_STEPS = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
]
"""The steps of the tokenizers that llama.cpp calls ``smollm``: digits one by one, then the rule of GPT-2."""
PLAIN_BYTE_LEVEL = "gpt-2"
"""The rule of a byte-level tokenizer that names no expression of its own."""
BYTE = re.compile("<0x[0-9A-F]{2}>")


def add_tokenizer(writer: Any, folder: Path, rows: int) -> None:
    """Add everything that llama.cpp needs to tokenise as the tokenizer of a model folder does.

    An embedding with more `rows` than the tokenizer has tokens is filled up with unused ones; StoreError for fewer.
    """
    from gguf import SpecialVocab
    from mlx_lm.utils import load_tokenizer

    document = read_tokenizer(folder)
    tokens, types = _vocabulary(document, rows)
    sentence_pieces = bool(document["model"].get("byte_fallback"))
    writer.add_tokenizer_model("llama" if sentence_pieces else "gpt2")
    writer.add_tokenizer_pre("default" if sentence_pieces else split_rule(document.get("pre_tokenizer")))
    writer.add_token_list(tokens)
    if sentence_pieces:
        normalizer = json.dumps(document.get("normalizer") or {})
        scheme = (document.get("pre_tokenizer") or {}).get("prepend_scheme")
        writer.add_add_space_prefix('"Prepend"' in normalizer or scheme in ("always", "first"))
        writer.add_token_scores(_scores(document["model"]["merges"], tokens))
    writer.add_token_types(types)
    tokenizer = load_tokenizer(folder)
    special = SpecialVocab(folder, load_merges=not sentence_pieces, n_vocab=rows)
    if tokenizer.eos_token_id is None:
        raise StoreError(f"the tokenizer in {folder} names no eos_token; without one llama.cpp would never stop")
    special.special_token_ids |= {"eos": int(tokenizer.eos_token_id)}
    if (end := ChatLayout(tokenizer._tokenizer).end) != [tokenizer.eos_token_id]:
        special.special_token_ids |= {"eot": end[0]}
    # What the tokenizer does, not what its files seem to say, decides: llama.cpp's own defaults differ by kind.
    ids = tokenizer.encode("a")
    special.add_special_token = {
        "bos": bool(ids) and ids[0] == tokenizer.bos_token_id is not None,
        "eos": bool(ids) and ids[-1] == tokenizer.eos_token_id,
    }
    if tokenizer.bos_token_id is not None:
        special.special_token_ids |= {"bos": int(tokenizer.bos_token_id)}
    special.add_to_gguf(writer, quiet=True)


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Read ``tokenizer.json``; StoreError if it is damaged, ParameterError if its kind cannot be written."""
    path = folder / "tokenizer.json"
    try:
        document = read_object(path, MOST_VOCABULARY_BYTES)
        kind = document["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}); a GGUF file needs the tokenizer.json of the base model"
        ) from error
    if kind != "BPE":
        raise ParameterError(f"a {kind} tokenizer cannot be written to GGUF, only BPE; use gguf='none'")
    if not document["model"].get("byte_fallback"):
        split_rule(document.get("pre_tokenizer"))
    return document


def split_rule(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of the rule by which a byte-level tokenizer splits text; ParameterError for others."""
    outer = pre_tokenizer or {}
    steps = outer.get("pretokenizers", [outer])
    deciding = [{name: value for name, value in step.items() if name != "trim_offsets"} for step in steps]
    if deciding and deciding[-1].get("type") == "ByteLevel":
        deciding[-1].setdefault("use_regex", True)
    if deciding == SMOLLM_STEPS:
        return SMOLLM
    bytes_step = steps[-1] if steps else {}
    splits = [step.get("pattern", {}).get("Regex") for step in steps[:-1]]
    if bytes_step.get("type") == "ByteLevel" and not bytes_step.get("add_prefix_space"):
        if not splits and bytes_step.get("use_regex", True):
            return PLAIN_BYTE_LEVEL
        if len(splits) == 1 and splits[0] in SPLIT_RULES and not bytes_step.get("use_regex", True):
            return SPLIT_RULES[splits[0]]
    raise ParameterError(
        f"the tokenizer splits text by an unknown rule ({json.dumps(outer)[:200]}); known are "
        f"{', '.join([*SPLIT_RULES.values(), SMOLLM, PLAIN_BYTE_LEVEL])} and SentencePiece with byte fallback. "
        "Use gguf='none'"
    )


def _scores(merges: list[Any], tokens: list[str]) -> list[float]:
    """Score pieces by the rank of the merge that makes them: llama.cpp merges the best score first."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    return [-float(ranks.get(token, len(ranks))) for token in tokens]


def _vocabulary(document: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """List the text and the type of each token id, padded with unused tokens."""
    from gguf import TokenType

    model = document["model"]
    added = {token["id"]: token for token in document.get("added_tokens", [])}
    texts = {number: text for text, number in model["vocab"].items()}
    texts |= {number: token["content"] for number, token in added.items()}
    if texts and max(texts) >= rows:
        raise StoreError(f"the tokenizer has {max(texts) + 1} ids but the model {rows} embeddings; they do not match")
    types = [TokenType.NORMAL if number in texts else TokenType.UNUSED for number in range(rows)]
    for number, token in added.items():
        types[number] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
    for number, text in texts.items() if model.get("byte_fallback") else ():
        if text == model.get("unk_token"):
            types[number] = TokenType.UNKNOWN
        elif BYTE.fullmatch(text):
            types[number] = TokenType.BYTE
    return [texts.get(number, f"[PAD{number}]") for number in range(rows)], [int(kind) for kind in types]
