"""``python -m sandbox.writing [FOLDER]`` writes the sandbox corpus anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from sandbox.writing.corpus import FOLDER, SEED, write_folder


def main() -> int:
    """Write the corpus and print how many documents each source has."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.writing", description="Write the sandbox corpus again.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, help="target folder (default: the committed one)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="another seed writes another corpus")
    arguments = parser.parse_args()
    for source, count in write_folder(arguments.folder, arguments.seed).items():
        print(f"{source:24} {count:4} documents")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
