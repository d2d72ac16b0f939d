"""What is wrong with values that are within their bounds: names of things that do not exist, a store that is a file.

The same functions check a command line before anything heavy is loaded, and a run before it does any work.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.checkpoint import STATE, CheckpointState, list_checkpoints, read_state
from storage.errors import DistrustError, ParameterError, StoreError
from storage.layout import CHECKPOINT_PREFIX, NAME_PATTERN, Layout
from storage.training_result import RESULT
from storage.vocabulary import SOURCE_TYPES
from tasks.lora.recipe import AUTO, preset_names

Fault = tuple[str, str]
"""The parameter at fault, and a sentence that says why."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MOST_LISTED = 12


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name that was most likely meant, if one is close."""
    return next(iter(difflib.get_close_matches(name, sorted(known), 1, 0.6)), None)


def suggestion(name: str, known: Iterable[str], otherwise: str = "none exist yet") -> str:
    """End a sentence about a name that does not exist: with the nearest one, else with all that exist."""
    names = sorted(known)
    if not names:
        return otherwise
    if close := nearest(name, names):
        return f"did you mean {close!r}?"
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"choose from: {', '.join(names[:MOST_LISTED])}{more}"


def refuse(faults: Iterable[Fault]) -> None:
    """Stop a run whose values cannot be used.

    Raises:
        ParameterError: There is a fault; the message names all of them.
    """
    if lines := [f"{field}: {sentence}" for field, sentence in faults]:
        raise ParameterError("\n".join(lines))


def unusable_store(layout: Layout | None) -> Iterator[Fault]:
    """A store in which nothing can be written."""
    if layout and (reason := why_not_writable(layout.root)):
        yield "store", f"{layout.root} cannot be written ({reason}); name another folder, or set DISTRUST_STORE"


def why_not_writable(folder: Path) -> str | None:
    """Return why nothing can be written below a folder that may not exist yet; none if it can be."""
    try:
        place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        if not place.is_dir():
            return f"{place} is not a folder"
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def unknown_sources(catalogue: str, names: Iterable[str]) -> Iterator[Fault]:
    """A catalogue that cannot be read, or sources that it does not name."""
    names = list(names)
    if not names and not catalogue:
        return
    from tasks.sources.catalogue import load_catalogue  # loads Arrow

    try:
        known = load_catalogue(Path(catalogue).expanduser() if catalogue else None)
    except DistrustError as error:
        yield "catalogue", str(error)
        return
    for name in names:
        if name not in known:
            yield "sources", f"{name!r} is not in the catalogue; {suggestion(name, known)}"


def unusable_subjects(subjects: str, bulk: bool) -> Iterator[Fault]:
    """A list of subjects that cannot be read, or that nobody can be asked for."""
    if not subjects:
        return
    from tasks.sources.subject_list import read_subjects

    try:
        read_subjects(subjects)
    except DistrustError as error:
        yield "subjects", str(error)
    if bulk:
        yield "bulk", "the library's bulk files cannot be asked by subject; leave out --bulk, or --subjects"


def unusable_documents(path: str, source_type: str, name: str, text_column: str) -> Iterator[Fault]:
    """A folder of documents that does not exist, or a kind or name that cannot be used."""
    place = Path(path).expanduser()
    if path and not place.exists():
        yield from missing_paths("path", [path])
    elif path and not (place.is_dir() or place.is_file()):
        yield "path", f"{place.absolute()} is neither a folder nor a file"
    if source_type not in SOURCE_TYPES:
        close = nearest(source_type.lower(), SOURCE_TYPES)
        hint = f"did you mean {close!r}? " if close else ""
        kinds = f"{hint}'unknown' is a good answer; there are: {', '.join(SOURCE_TYPES)}"
        yield "source_type", f"{source_type!r} is not a kind of documents; {kinds}"
    if name and not re.fullmatch(NAME_PATTERN, name):
        yield "name", f"{name!r} cannot name a folder; use letters, digits, dots, dashes and underscores"
    if not path and (name or text_column):
        yield ("name" if name else "text_column"), "it belongs to documents of your own; name them with --path DIR"


def missing_paths(field: str, names: Iterable[str]) -> Iterator[Fault]:
    """Files or folders that do not exist."""
    for path in (Path(name).expanduser() for name in names):
        if not path.exists():
            siblings = [place.name for place in path.parent.glob("*")] if path.parent.is_dir() else []
            close = nearest(path.name, siblings)
            hint = f"did you mean {str(path.parent / close)!r}?" if close else "name a folder or file that exists"
            yield field, f"{path.absolute()} does not exist; {hint}"


def unfinished_sources(layout: Layout | None, stage: str, names: Iterable[str], made_by: str) -> Iterator[Fault]:
    """Sources that an earlier flow has not finished."""
    finished = layout.completed(stage) if layout else []
    for name in names:
        if layout and name not in finished:
            hint = suggestion(name, finished)
            yield "sources", f"{name!r} is not in {layout.root / stage}; {hint} (python -m flows {made_by} makes them)"


def missing_mixture(layout: Layout | None, name: str) -> Iterator[Fault]:
    """A mixture that does not exist."""
    if layout and name not in (finished := layout.completed("balanced")):
        hint = suggestion(name, finished)
        build = f"python -m flows rebalance-corpus --mixture {name}"
        yield "mixture", f"{name!r} is not in {layout.root / 'balanced'}; {hint} ({build} makes it)"


def missing_run(layout: Layout | None, name: str, field: str = "run") -> Iterator[Fault]:
    """A training run that does not exist, or has not finished."""
    if layout is None or not re.fullmatch(NAME_PATTERN, name) or os.path.lexists(layout.run(name) / RESULT):
        return
    train = f"python -m flows train-adapter --run {name}"
    if layout.run(name).is_dir():
        yield field, f"training of {name!r} has not finished; finish it first: {train}"
        return
    finished = [path.parent.name for path in layout.root.glob(f"runs/*/{RESULT}")]
    hint = suggestion(name, finished, f"none exist yet; train it first: {train}")
    yield field, f"{name!r} is not in {layout.root / 'runs'}; {hint}"


def missing_others(layout: Layout | None, run: str, names: Iterable[str]) -> Iterator[Fault]:
    """Further adapters that do not exist: checkpoints of a run, or other runs."""
    for name in names:
        if not name.startswith(CHECKPOINT_PREFIX):
            yield from missing_run(layout, name, "others")
        elif layout is not None and layout.run(run).is_dir() and not (layout.run(run) / name).is_dir():
            checkpoints = [path.name for path in layout.run(run).glob(f"{CHECKPOINT_PREFIX}*")]
            hint = suggestion(name, checkpoints, "it has no checkpoints")
            yield "others", f"run {run!r} has no {name!r}; {hint}"


def missing_checkpoint(layout: Layout | None, run: str, named: str | None) -> Iterator[Fault]:
    """A checkpoint to resume from that is neither in the run nor a folder of its own."""
    if layout is None or named is None:
        return
    folder = layout.run(run)
    path = Path(os.path.expanduser(named))
    if any((place / STATE).exists() for place in (folder / path, path)):
        return
    checkpoints = [place for _, place in list_checkpoints(folder)]
    if any(_began_at(place, named) for place in checkpoints):
        return  # a run that began at a checkpoint which was pruned since goes on with its own
    none = "the run has none yet: leave it out to start from the beginning"
    hint = suggestion(named, [place.name for place in checkpoints], none)
    yield "resume_from", f"{named!r} is not a complete checkpoint of run {run!r}; {hint}"


def _began_at(checkpoint: Path, named: str) -> bool:
    with contextlib.suppress(StoreError):
        return read_state(checkpoint, CheckpointState).resumed_from == named
    return False


def unknown_model(model: str, field: str = "model") -> Iterator[Fault]:
    """A base model that is neither a preset, nor a folder, nor spelled like a model of the Hub."""
    folder = Path(os.path.expanduser(model))
    if model in (AUTO, *preset_names()) or folder.is_dir():
        return
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        reason = "is not a folder" if os.path.lexists(folder) else "does not exist"
        siblings = [place.name for place in folder.parent.glob("*") if place.is_dir()] if folder.parent.is_dir() else []
        close = nearest(folder.name, siblings)
        hint = f"did you mean {str(folder.parent / close)!r}?" if close else "name a model folder, or owner/name"
        yield field, f"{model!r} {reason}; {hint}"
    elif not HUB_ID.fullmatch(model):
        hint = suggestion(model, [*preset_names(), AUTO])
        yield field, f"{model!r} is neither a preset, nor a folder, nor a model of the Hub (owner/name); {hint}"
