"""The command line of a flow: read and checked before anything heavy is imported.

All faults are reported at once: misspelt options with the nearest name, values out of bounds, options that contradict
each other, names of things that do not exist.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from blocks.saved import may_name_a_store
from flows import forms
from flows.faults import nearest
from flows.parameters import FlowParameters
from flows.recipes import Faulty, read_recipe
from storage.errors import DistrustError
from storage.layout import Layout

COMMANDS: dict[str, tuple[type[FlowParameters], str]] = {
    "download-corpus": (forms.DownloadCorpusForm, "pull documents from the archives into Parquet"),
    "score-corpus": (forms.ScoreCorpusOptions, "authority, provenance entropy and trivium of every document"),
    "rebalance-corpus": (forms.RebalanceCorpusParameters, "deduplicate, sample to the target shares, split"),
    "train-adapter": (forms.TrainAdapterForm, "train or resume a LoRA adapter with the distrust objective"),
    "evaluate-adapter": (forms.EvaluateAdapterParameters, "compare base model and adapter, write the report"),
    "export-model": (
        forms.ExportModelParameters,
        "merge the adapter and save a model for MLX, LM Studio, llama.cpp, Ollama",
    ),
    "corpus-to-model": (forms.CorpusToModelParameters, "all six, one after the other"),
    "compare-recipes": (
        forms.CompareRecipesParameters,
        "train with several alphas, objectives or base models, side by side",
    ),
    "check-setup": (forms.CheckSetupParameters, "check every component of this machine before a long run"),
    "prune-store": (
        forms.PruneStoreParameters,
        "remove old checkpoints, exports, set-aside datasets and leftovers",
    ),
}
FORMS = {name: form for name, (form, _) in COMMANDS.items()}
FLOWS = {name: description for name, (_, description) in COMMANDS.items()}
NOTHING: Mapping[str, object] = MappingProxyType({})


class BadArguments(Exception):
    """A command line that cannot be run; the message has one line for each fault.

    Args:
        faults: The lines.
        status: The exit status: 2, or 1 where what is missing was not named by an option.
    """

    def __init__(self, faults: list[str], status: int = 2) -> None:
        super().__init__("\n".join(dict.fromkeys(faults)))
        self.status = status


def read(name: str, arguments: list[str]) -> tuple[FlowParameters, bool]:
    """Read and check the options of a flow; return its parameters and whether to print JSON.

    Raises:
        BadArguments: They cannot be used.
    """
    form = FORMS[name]
    options = options_of(form)
    misspelt, arguments = correct_options(options, arguments)
    given = {options.get(argument.partition("=")[0]) for argument in arguments}
    file, values, faulty = values_of_recipe(form, arguments)
    values = {field: value for field, value in values.items() if field not in given}
    lines = [*misspelt, *faulty]
    try:
        parameters, as_json = parse(name, form, arguments, values, exits=False)
    except SettingsError as error:
        raise BadArguments([*lines, describe_misuse(error, options)]) from None
    except ValidationError as error:
        lines += describe_bad_values(error)
        # What else is wrong is reported too, as far as it can be checked without the values that cannot be read.
        bad = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
        with suppress(SettingsError, ValidationError):
            parameters, _ = parse(name, form, without(options, arguments, bad), values, exits=False)
            lines += [line for field, line in check(parameters) if field not in bad]
        raise BadArguments(lines) from None
    faults = check(parameters)
    if lines or faults:
        is_named = lines or any(field in given or field in values for field, _ in faults)
        lines += [f"{file} {line}".lstrip() if field in values else line for field, line in faults]
        raise BadArguments(lines, 2 if is_named else 1)
    return parameters.model_copy(update={"recipe": ""}), as_json


def values_of_recipe(form: type[BaseModel], arguments: Sequence[str]) -> tuple[str, dict[str, object], list[str]]:
    """Read the recipe that a command line names: how its file is cited, its values by field, what is wrong with it."""
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    named = [following if word == "--recipe" else word[9:] for word, following in pairs if word.startswith("--recipe")]
    if not named or not named[-1]:
        return "", {}, []
    try:
        return f"{Path(named[-1]).name}:", read_recipe(named[-1], form), []
    except Faulty as error:
        return "", {}, error.lines


def check(parameters: FlowParameters) -> list[tuple[str, str]]:
    """List what is wrong with values that are within their bounds: the field, and the line that says so."""
    try:
        faults = parameters.faults(visible_store(parameters.store))
        return [(field, f"{as_option(field)}: {sentence}") for field, sentence in faults]
    except DistrustError as error:
        return [("store", f"--store: {error}")]


def without(options: Mapping[str, str], arguments: Iterable[str], fields: Collection[str]) -> list[str]:
    """Leave out the options that set some fields, with their values."""
    kept: list[str] = []
    leaving = False
    for argument in arguments:
        if field := options.get(argument.partition("=")[0]):
            leaving = field in fields
        kept += [] if leaving else [argument]
    return kept


def visible_store(store: str) -> Layout | None:
    """Open the store of a command line, unless it is a bucket or a saved block may name another one.

    Raises:
        ParameterError: It is neither a folder nor the address of a bucket.
    """
    if "://" in (named := store or os.environ.get("DISTRUST_STORE") or ""):
        from storage.bucket import check_address  # loads Arrow

        check_address(named)
        return None
    return Layout.of(store) if store or not may_name_a_store() else None


def as_option(field: str) -> str:
    """Spell a field as its option."""
    return f"--{field.replace('_', '-')}"


def options_of(form: type[BaseModel]) -> dict[str, str]:
    """List all options of a form, each with the field that it sets."""
    options = {"--help": "help", "-h": "help", "--json": "json"}
    for field, info in form.model_fields.items():
        choices = getattr(info.validation_alias, "choices", [field])
        for spelled in (as_option(str(choice)) for choice in choices):
            options[spelled] = field
            if info.annotation is bool:
                options[f"--no-{spelled[2:]}"] = field
    return options


def path_option(options: Mapping[str, str], word: str) -> str | None:
    """Return the option for documents of one's own, if a flow has it and a word names a file or folder."""
    return "--path" if "--path" in options and word and Path(word).expanduser().exists() else None


def correct_options(options: Mapping[str, str], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Report options that do not exist; also return the arguments as they were probably meant."""
    faults: list[str] = []
    meant: list[str] = []
    skipping = False
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        spelled, equals, value = argument.partition("=")
        if not spelled.startswith("--") or spelled == "--" or spelled in options:
            skipping = skipping and not spelled.startswith("--")
            meant += [] if skipping else [argument]
            continue
        close = nearest(spelled.lower().replace("_", "-"), options) or path_option(options, value or following)
        hint = f"did you mean {close}?" if close else "--help lists the options"
        faults.append(f"{spelled}: unknown option; {hint}")
        meant += [f"{close}{equals}{value}"] if close else []
        skipping = close is None
    return faults, meant


def parse(
    name: str,
    form: type[FlowParameters],
    arguments: list[str],
    recipe: Mapping[str, object] = NOTHING,
    *,
    exits: bool = True,
) -> tuple[FlowParameters, bool]:
    """Read the options of a flow, over those of a recipe; return its parameters and whether to print JSON.

    Raises:
        ValidationError: A value is out of bounds.
        SettingsError: An argument is not understood; with `exits` that ends the process.
    """

    class Options(form, BaseSettings):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(
            cli_prog_name=f"python -m flows {name}",
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_avoid_json=True,
            cli_exit_on_error=exits,
            extra="forbid",
        )
        json_result: bool = Field(False, validation_alias="json")

        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **others: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)  # only the command line: environment variables are not options

    # The library can read `a,b` as a list, but not as a tuple of any length.
    tuples = {field: info for field, info in form.model_fields.items() if get_origin(info.annotation) is tuple}
    lists = {field: (list[get_args(info.annotation)[0]], copy(info)) for field, info in tuples.items()}  # type: ignore[misc]
    options = CliApp.run(create_model(Options.__name__, __base__=Options, **lists), cli_args=arguments, **recipe)  # type: ignore[call-overload, arg-type]
    given = options.model_dump(include=set(form.model_fields))
    return form(**given | {field: tuple(given[field]) for field in tuples}), options.json_result


def describe_misuse(error: SettingsError, options: Mapping[str, str]) -> str:
    """Say which argument is not understood."""
    message = str(error).removeprefix("error parsing CLI: ").removeprefix("argument ")
    stray = message.removeprefix("unrecognized arguments: ")
    if stray == message:
        return message
    own = path_option(options, stray)
    hint = (
        f"for documents of your own: {own} {shlex.quote(stray)}"
        if own
        else "options begin with --, and --help lists them"
    )
    return f"{stray}: not an option; {hint}"


def describe_bad_values(error: ValidationError) -> Iterator[str]:
    """Say which option has which fault, one line each."""
    for fault in error.errors():
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:  # options that contradict each other; no single one is at fault
            yield message
            continue
        choices = re.findall("'([^']*)'", fault["ctx"]["expected"]) if fault["type"] == "literal_error" else []
        close = nearest(str(fault["input"]), choices)
        hint = f"; did you mean {close!r}?" if close else ""
        yield f"{as_option(str(fault['loc'][0]))}: {message} (got {fault['input']!r}){hint}"
