"""Completion of the command line in bash, zsh and fish: ``eval "$(python -m flows --completion bash)"``.

The shell asks at every TAB, so that runs, mixtures and sources are offered that exist at that moment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

from flows.arguments import FORMS, options_of, visible_store
from flows.recipes import GALLERY
from storage.errors import DistrustError
from storage.training_result import RESULT
from storage.vocabulary import SOURCE_TYPES
from tasks.lora.recipe import AUTO, preset_names

BASH = """\
_distrust_words() {
  [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == flows && $COMP_CWORD -gt 2 ]] || return 0
  local IFS=$'\\n'
  COMPREPLY=($("${COMP_WORDS[0]/#\\~/$HOME}" -m flows --complete "${COMP_WORDS[@]:3:$COMP_CWORD-2}" 2>/dev/null))
}
complete -o default -o bashdefault -F _distrust_words python python3
"""
FISH = """\
function __distrust_words
  set -l words (commandline -opc) (commandline -ct)
  $words[1] -m flows --complete $words[4..-1] 2>/dev/null
end
for program in python python3
  complete -c $program -n '__fish_seen_subcommand_from flows' -a '(__distrust_words)'
end
"""
SCRIPTS = {"bash": BASH, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{BASH}", "fish": FISH}
"""What a shell reads once; a command line that does not begin with ``python -m flows`` is completed as before."""


def answer(command: str, words: Sequence[str]) -> int:
    """Print the script of a shell (``--completion bash``), or the words that may stand last (``--complete ...``)."""
    if command == "--complete":
        print("\n".join(candidates(words)))
        return 0
    script = SCRIPTS.get(words[0] if words else "")
    print(script or f"--completion: name a shell: {', '.join(SCRIPTS)}", file=sys.stdout if script else sys.stderr)
    return 0 if script else 2


def candidates(words: Sequence[str]) -> list[str]:
    """Return what may stand in the place of the last of the words that follow ``python -m flows``."""
    *before, current = [*(word for word in words[:-1] if word != "="), words[-1].removeprefix("=") if words else ""]
    if not before:
        return beginning(current, [*FORMS, "try-model", "--help", "--completion"])
    if (form := FORMS.get(before[0])) is None:
        return []
    options = options_of(form)
    field = options.get(before[-1], "")
    info = form.model_fields.get(field)
    if info is None or info.annotation is bool:
        return beginning(current, [option for option in options if option != "-h" and "_" not in option])
    written, comma, current = current.rpartition(",")
    names = literals(info.annotation) or names_of(before[0], field)
    return [f"{written}{comma}{name}" for name in beginning(current, names)]


def beginning(start: str, names: Sequence[str]) -> list[str]:
    """Return the names that begin with what was typed."""
    return [name for name in names if name.startswith(start)]


def literals(annotation: Any) -> list[str]:
    """List the words that a field may hold, if it may hold no others."""
    if get_origin(annotation) is Literal:
        return list(map(str, get_args(annotation)))
    return [word for part in get_args(annotation) for word in literals(part)]


def names_of(flow: str, field: str) -> list[str]:
    """List names that exist, in the project or in the store, and that a field may hold."""
    if field in ("model", "models", "load_model"):
        return [AUTO, *preset_names()]
    if field == "recipe":
        return sorted(path.stem for path in GALLERY.glob("*.toml"))
    if field == "source_type":
        return list(SOURCE_TYPES)
    stage = {"score-corpus": "raw", "rebalance-corpus": "scored"}.get(flow, "") if field == "sources" else "balanced"
    if field == "filter_source" or not stage:
        from tasks.sources.catalogue import load_catalogue  # loads Arrow

        return sorted(load_catalogue(None))
    layout = None
    with suppress(DistrustError):
        layout = visible_store("")
    if layout and field in ("sources", "mixture"):
        return layout.completed(stage)
    if layout and field in ("run", "others"):
        return sorted(path.parent.name for path in layout.root.glob(f"runs/*/{RESULT}"))
    return []
