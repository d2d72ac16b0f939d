"""Small byte-level tokenizers that speak the chat templates of well-known families."""

from __future__ import annotations

from typing import Any

LLAMA_3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DATED = (
    "{{ bos_token }}{% if strftime_now is defined %}{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|user|>' if message.role == 'user' else '<|assistant|>' }}"
    "{{ message.content }}{{ '<|end|>' if message.role == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama-3": {
        "template": LLAMA_3,
        "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "bos": "<|begin_of_text|>",
        "eos": "<|end_of_text|>",
        "end": "<|eot_id|>",
        "begins": True,
    },
    "qwen2": {
        "template": QWEN2,
        "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "bos": None,
        "eos": "<|im_end|>",
        "end": "<|im_end|>",
        "begins": False,
    },
    "gemma": {
        "template": GEMMA,
        "special": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        "bos": "<bos>",
        "eos": "<eos>",
        "end": "<end_of_turn>",
        "begins": True,
    },
    "reasons": {
        "template": DATED,
        "special": ["<s>", "<|user|>", "<|assistant|>", "<|end|>"],
        "bos": "<s>",
        "eos": "<|end|>",
        "end": "<|end|>",
        "begins": True,
    },
    "tiny": {
        "template": None,
        "special": ["<|end|>"],
        "bos": None,
        "eos": "<|end|>",
        "end": "<|end|>",
        "begins": False,
    },
}


def make_tokenizer(family: str) -> Any:
    """Make a tokenizer whose text is bytes, with the special tokens and the template of a family."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    facts = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in facts["special"]])
    if facts["begins"]:
        begin = [(facts["bos"], tokenizer.token_to_id(facts["bos"]))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{facts['bos']} $A", special_tokens=begin)
    named = {f"{role}_token": facts[role] for role in ("bos", "eos") if facts[role]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.chat_template = facts["template"]
    return fast
