"""What no file of the project holds: secrets, and the doors by which foreign bytes become code.

Ruff's rules S refuse most of the doors (pickle, eval, exec, yaml.load, shell=True, verify=False, unsafe hashes);
here is what it has no rule for, and that nobody silences those rules by the way.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("storage", "blocks", "tasks", "flows", "deployments", "sandbox", "studio")
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "numpy.load", "np.load", "pd.read_pickle", "yaml.load", "os.system"}
FORBIDDEN_ARGUMENTS = {"trust_remote_code": True, "shell": True, "verify": False, "allow_pickle": True, "ssl": False}
ALLOWED_SILENCES = {"S310", "S311", "S606", "S608", "S704"}
# Without the detectors that guess (words such as "password", high entropy): they find every test and take a minute.
HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{30,}")
DETECTORS = {
    *("AWSKeyDetector", "AzureStorageKeyDetector", "GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector"),
    *("NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SlackDetector", "StripeDetector"),
    "TwilioKeyDetector",
}
BINARY = (".safetensors", ".parquet", ".png", ".jpg", ".webp", ".zst", ".lock", "tokenizer.json")


def doors(tree: ast.AST) -> Iterator[str]:
    """Name every door in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"import {name}" for name in names if name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                yield node.func.id
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                found = f"{node.func.value.id}.{node.func.attr}"
                yield from [found] if found in LOADERS else []
            for keyword in node.keywords:
                given = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if given is not None and given is FORBIDDEN_ARGUMENTS.get(str(keyword.arg)):
                    yield f"{keyword.arg}={given}"


def test_foreign_bytes_never_become_code() -> None:
    found = {}
    for path in SOURCES:
        text = path.read_text("utf-8")
        silenced = {f"noqa: {rule}" for rule in set(re.findall(r"noqa: (S\d+)", text)) - ALLOWED_SILENCES}
        if opened := {*doors(ast.parse(text)), *silenced}:
            found[str(path.relative_to(ROOT))] = opened
    assert found == {}


def test_every_door_is_seen() -> None:
    codes = [
        *("import pickle", "from pickle import loads", "import joblib.numpy_pickle", "eval(x)", "yaml.load(x)"),
        *("torch.load(x)", "np.load(x, allow_pickle=True)", "f(trust_remote_code=True)"),
        *("subprocess.run(x, shell=True)", "httpx.get(x, verify=False)"),
    ]
    assert [code for code in codes if not list(doors(ast.parse(code)))] == []


def secrets_in(file: Path) -> list[str]:
    """Kinds of secrets that a file seems to hold, by the patterns of detect-secrets."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    text = file.read_text("utf-8", "replace")
    plugins = [plugin for plugin in get_mapping_from_secret_type_to_class().values() if plugin.__name__ in DETECTORS]
    assert len(plugins) == len(DETECTORS)
    known = [plugin.secret_type for plugin in plugins if any(plugin().analyze_string(text))]  # type: ignore[attr-defined]
    # The one kind of token that the project handles is the one that the library has no pattern for.
    return known + ["Hugging Face token" for _ in HUB_TOKEN.findall(text)]


def files_of_the_project() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listing.stdout.splitlines() if not name.endswith(BINARY)]
    return [path for name in names if (path := ROOT / name).is_file()]


def test_no_secret_is_kept_in_the_project() -> None:
    files = files_of_the_project()
    if not files:
        pytest.skip("not a git checkout: there is no list of the project's files")
    assert {str(file.relative_to(ROOT)): found for file in files if (found := secrets_in(file))} == {}


def test_a_secret_would_be_found(tmp_path: Path) -> None:
    secrets = [
        "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b",
        "AKIA" + "IOSFODNN7EXAMPLQ",
        "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
    ]
    for secret in secrets:
        (tmp_path / "leak.py").write_text(f'value = "{secret}"\n')
        assert secrets_in(tmp_path / "leak.py"), secret
