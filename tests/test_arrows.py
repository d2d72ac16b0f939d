"""Who may import whom: the arrows of the house, read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("storage", "blocks", "tasks", "flows", "deployments", "sandbox")
FOLDERS = ("sources", "signals", "mixture", "lora", "evals", "exports")
# Parameter models, which are the forms, and results are all that flows may see of a room.
PARAMETER_MODELS = {
    "tasks.sources.connection",
    "tasks.sources.catalogue",
    "tasks.sources.subject_list",
    "tasks.sources.results",
    "tasks.signals.results",
    "tasks.mixture.parameters",
    "tasks.lora.recipe",
    "tasks.lora.comparison",
    "tasks.evals.parameters",
    "tasks.exports.export_manifest",
    "tasks.exports.parameters",
}
WRAPPER_FOLDER = {
    "archives": "sources",
    "acquisition": "sources",
    "download_report": "sources",
    "scoring": "signals",
    "coordination": "signals",
    "rebalancing": "mixture",
    "training": "lora",
    "comparing": "lora",
    "evaluation": "evals",
    "exporting": "exports",
    "policies": None,
    "shared_pace": None,
    "runners": None,
    "chain": None,
    "approval": None,
    "checks": None,
    "pruning": None,
}
ACCELERATOR = ("mlx", "mlx_lm")
MAY_LOAD_MLX = (
    "tasks/lora/",
    "tasks/evals/likelihoods.py",
    "tasks/evals/model_under_test.py",
    "tasks/evals/try_model.py",
    "tasks/exports/",
    "sandbox/",
)


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@cache
def imports(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def is_below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def forbidden(path: Path, name: str) -> bool:
    room, *rest = path.relative_to(ROOT).with_suffix("").parts
    if room == "storage":
        return is_below(name, "prefect", "tasks", "flows", "blocks", "deployments", "sandbox", *ACCELERATOR)
    if room == "blocks":
        return is_below(name, "tasks", "flows", "deployments", "sandbox", "aiohttp", *ACCELERATOR)
    if room == "tasks" and len(rest) > 1:
        siblings = [f"tasks.{folder}" for folder in FOLDERS if folder != rest[0]]
        wrappers = [f"tasks.{wrapper}" for wrapper in WRAPPER_FOLDER]
        return is_below(name, "prefect", "blocks", "flows", "deployments", "sandbox", *siblings, *wrappers)
    if room == "tasks" and rest != ["__init__"]:
        own = WRAPPER_FOLDER[rest[0]]
        folders = [f"tasks.{folder}" for folder in FOLDERS if folder != own]
        wrappers = [
            f"tasks.{wrapper}" for wrapper in WRAPPER_FOLDER if wrapper not in ("policies", "shared_pace", rest[0])
        ]
        return is_below(name, "flows", "deployments", "sandbox", *folders, *wrappers, *ACCELERATOR)
    if room == "flows":
        inside = is_below(name, *(f"tasks.{folder}" for folder in FOLDERS)) and not is_below(name, *PARAMETER_MODELS)
        # The command line is the door: it finds or starts the local server before the flow begins.
        server = [] if rest == ["__main__"] else ["deployments"]
        return inside or is_below(name, "aiohttp", "sandbox", *server, *ACCELERATOR)
    if room == "deployments":
        return is_below(name, "tasks", "sandbox", *ACCELERATOR)
    return is_below(name, "flows", "blocks")  # the sandbox starts the pipeline from outside, like a user


def test_imports_follow_the_arrows() -> None:
    wrong = {
        str(path.relative_to(ROOT)): {name for name in imports(path) if forbidden(path, name)} for path in modules()
    }
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_accelerator_is_loaded_only_where_it_is_used() -> None:
    loading = {
        path.relative_to(ROOT).as_posix()
        for path in modules()
        if any(is_below(name, *ACCELERATOR) for name in imports(path))
    }
    assert {path for path in loading if not path.startswith(MAY_LOAD_MLX)} == set()


def test_a_data_worker_never_loads_the_accelerator() -> None:
    flows = [path.stem for path in (ROOT / "flows").glob("*.py") if path.stem not in ("__init__", "__main__")]
    code = "import sys, importlib\n" + "".join(f"importlib.import_module('flows.{name}')\n" for name in flows)
    code += "print(sorted(name for name in sys.modules if name.split('.')[0] in ('mlx', 'mlx_lm', 'torch')))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
