"""A signal of the user's own, ``module:function``: it replaces or joins the built-in scores.

The contract: the function gets a `pyarrow.Table` of documents with the columns of `storage.schemas.RAW_SCHEMA`
(``id, source, source_type, title, year, …, text`` cleaned as it will be trained on, further metadata as JSON in
``extra``) and returns a table, or a mapping of sequences, with any of ``auth_weight`` (0 to 0.99),
``prov_entropy`` (0 to 10) and ``trivium_category``, one value per document in the same order. A null leaves the
built-in score.

It is called on several threads at once, each time with a part of a shard, and a value may depend on its own document
only.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from storage.errors import ParameterError
from tasks.signals.overlay import FIELDS, Mode, find_fault, lay_over

_loaded: dict[str, str] = {}
"""Hash of the source that every imported module of a signal was imported from."""


@dataclass(frozen=True)
class CustomSignal:
    """A loaded signal."""

    name: str
    function: Callable[[pa.Table], Any]
    source_sha256: str
    """Of the file that holds the function: another source means other scores."""
    mode: Mode = "replace"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process by name: the function is imported there, from the same source or not at all."""
        return _import_again, (self.name, self.mode, self.source_sha256)

    @property
    def identity(self) -> str:
        """What scores made with this signal depend on."""
        return f"{self.name} {self.mode} sha256:{self.source_sha256}"

    def apply(self, documents: pa.Table, scored: pa.Table) -> pa.Table:
        """Lay the signal's values over the scores of the same documents.

        Raises:
            ParameterError: The function failed, or a value breaks the contract.
        """
        try:
            answer = self.function(documents)
        except Exception as error:
            first, last = (documents.column("id")[row].as_py() for row in (0, -1))
            raise ParameterError(
                f"signal {self.name!r} failed on the documents {first!r} to {last!r} "
                f"({type(error).__name__}: {error}); mend the function and run again"
            ) from error
        values = self._columns(answer, documents.num_rows)
        for field, column in values.items():
            for row, value in enumerate(column):
                if value is not None and (fault := find_fault(field, value)):
                    identifier = documents.column("id")[row].as_py()
                    raise ParameterError(f"signal {self.name!r} gave {identifier!r} the {field} {value!r}; {fault}")
        return lay_over(scored, values, f"signal {self.name}", self.mode)

    def _columns(self, answer: Any, rows: int) -> dict[str, list[Any]]:
        if isinstance(answer, pa.Table | pa.RecordBatch):
            answer = answer.to_pydict()
        wanted = f"a pyarrow table or a mapping with any of {', '.join(FIELDS)}"
        if not isinstance(answer, Mapping) or not answer or set(answer) - set(FIELDS):
            got = list(answer) if isinstance(answer, Mapping) else type(answer).__name__
            raise ParameterError(f"signal {self.name!r} must return {wanted}; it returned {got}")
        columns = {}
        for field, values in answer.items():
            column = _plain(values)
            if column is None:
                raise ParameterError(
                    f"signal {self.name!r} returned a single {type(values).__name__} of {field} for {rows} documents; "
                    "it must return one for each, in their order"
                )
            columns[field] = column
            if len(column) != rows:
                raise ParameterError(
                    f"signal {self.name!r} returned {len(column)} values of {field} for {rows} documents; "
                    "it must return one for each, in their order"
                )
        return columns


def load_signal(name: str, mode: Mode = "replace") -> CustomSignal:
    """Import the function ``module:function`` from the Python path or the current folder.

    Raises:
        ParameterError: There is no such module or function, or the module has no source file.
    """
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise ParameterError(f"signal {name!r} is not spelt module:function, such as my_signals:score")
    try:
        with _current_folder_first():
            module, digest = _import(module_name)
    except Exception as error:
        raise ParameterError(
            f"signal {name!r}: the module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            f"it is looked for in {Path.cwd()} and on the Python path"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ParameterError(f"signal {name!r}: {module.__file__} holds no function {function_name!r}")
    return CustomSignal(name, function, digest, mode)


def _import_again(name: str, mode: Mode, source_sha256: str) -> CustomSignal:
    signal = load_signal(name, mode)
    if signal.source_sha256 != source_sha256:
        raise ParameterError(
            f"signal {name!r} has another source here than where the run was started; bring the same files to every "
            "machine of the cluster"
        )
    return signal


def _import(name: str) -> tuple[ModuleType, str]:
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    if not getattr(module, "__file__", None):
        raise ImportError("it has no source file, so that its version cannot be told")
    digest = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    if _loaded.setdefault(name, digest) != digest:  # a long-lived worker imported an earlier version
        module = importlib.reload(module)
        _loaded[name] = digest
    return module, digest


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _plain(values: Any) -> list[Any] | None:
    """Return the values of a column; none if it is a single value."""
    for method in ("to_pylist", "tolist"):
        if hasattr(values, method):
            values = getattr(values, method)()
    return None if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable) else list(values)
