"""The chat layout of an export: what it serves is what was trained, in every program that opens it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from storage.atomic import write_json, write_text
from storage.chat_layout import FIXED_DAY, ChatLayout, common_prefix
from storage.checkpoint import trained_layout
from storage.errors import PrerequisiteError, UserError
from storage.model_folder import CONFIG
from tasks.exports.export_manifest import read_if_present

PASSAGES = Path(__file__).with_name("passages.toml")
TRAINED_LAYOUT = Path(__file__).with_name("trained_layout.jinja")
"""Chat template for ``User:/Assistant:``, where the adapter was trained in it (storage/chat.py)."""
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
GUIDE_MODELFILE = """{{ if .System }}{{ .System }}

{{ end }}User: {{ .Prompt }}

Assistant:{{ .Response }}"""
"""The answer brings its own blank: one that stands before it was never trained."""


def read_passages() -> list[str]:
    """Return the fixed passages on which an export is compared with what was trained."""
    passages: list[str] = tomllib.loads(PASSAGES.read_text("utf-8"))["passages"]
    return passages


def layout_of(base: Path, adapter: Path) -> ChatLayout:
    """Return the chat layout in which an adapter was trained; ParameterError if its base no longer has it."""
    from mlx_lm.utils import load_tokenizer

    return ChatLayout(load_tokenizer(base)._tokenizer, trained_layout(adapter))


def write_layout(folder: Path, layout: ChatLayout) -> None:
    """Make an export, which holds the files of its base, serve the trained layout and stop where an answer ends."""
    if not layout.templated:
        for path in folder.glob("chat_template.*"):
            path.unlink()
        settings = read_if_present(folder / TOKENIZER_CONFIG)
        if settings.pop("chat_template", None):  # of the base; the adapter was trained before it was spoken
            write_json(folder / TOKENIZER_CONFIG, settings)
        begin = "{{ bos_token }}" if layout.begin else ""
        write_text(folder / TEMPLATE_FILE, begin + TRAINED_LAYOUT.read_text("utf-8").rstrip("\n"))
        return
    for name in (CONFIG, GENERATION_CONFIG):
        settings = read_if_present(folder / name)
        stops = settings.get("eos_token_id")
        known = stops if isinstance(stops, list) else [] if stops is None else [stops]
        if settings and (missing := [token for token in layout.end if known and token not in known]):
            write_json(folder / name, settings | {"eos_token_id": [*known, *missing]})


def require_served_as_trained(folder: Path, layout: ChatLayout) -> None:
    """Raise UserError unless an export serves the passages as the token ids that a training gives them."""
    from mlx_lm.utils import load_tokenizer

    tokenizer = load_tokenizer(folder)
    options = {"add_generation_prompt": True, "strftime_now": FIXED_DAY.strftime}
    for passage in read_passages():
        served = list(tokenizer.apply_chat_template([{"role": "user", "content": passage}], **options))
        trained = layout.encode_prompt(passage)
        if served != trained:
            place = common_prefix(served, trained)
            one, other = (tokenizer.decode(ids[place : place + 12]) for ids in (served, trained))
            raise UserError(
                f"the export serves other tokens than were trained, from token {place} of a question on ({one!r}, "
                f"trained {other!r}); nothing was exported. Check that tokenizer and chat template of the base model "
                "are those of the training"
            )


def modelfile(gguf_file: str, layout: ChatLayout) -> str:
    """Write the text of Ollama's Modelfile for a GGUF file of an export.

    Ollama puts the token that begins a text in front by itself.
    """
    if not layout.templated:
        return f'FROM ./{gguf_file}\nTEMPLATE """{GUIDE_MODELFILE}"""\nPARAMETER stop "User:"\n'
    before, prompt = layout.frame(["user"])
    _, to_answer, to_next, _ = layout.frame(["user", "assistant", "user"])
    begin = layout.begin_text
    try:
        before_system, after_system, _ = layout.frame(["system", "user"])
        first = (
            f"{{{{ if .System }}}}{before_system.removeprefix(begin)}{{{{ .System }}}}{after_system}"
            f"{{{{ else }}}}{before.removeprefix(begin)}{{{{ end }}}}"
        )
    except PrerequisiteError:  # a template without a place for instructions
        first = f"{before.removeprefix(begin)}{{{{ if .System }}}}{{{{ .System }}}}\n\n{{{{ end }}}}"
    template = (
        "{{ $first := true }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}{{ if $first }}{{ $first = false }}'
        f"{_in_range(first)}{{{{ else }}}}{to_next}"
        "{{ end }}{{ .Content }}"
        f'{{{{ else if eq .Role "assistant" }}}}{to_answer}{{{{ .Content }}}}{{{{ end }}}}{{{{ end }}}}{prompt}'
    )
    stop = f'PARAMETER stop "{layout.end_text}"\n' if layout.end_text else ""
    return f'FROM ./{gguf_file}\nTEMPLATE """{template}"""\n{stop}'


def _in_range(text: str) -> str:
    """Within a range, a dot is the message; the instructions belong to the whole."""
    return text.replace("{{ if .System }}", "{{ if $.System }}").replace("{{ .System }}", "{{ $.System }}")
