"""The name under which ``mlx.launch`` was documented before ``python -m tasks.lora`` did the same."""

from __future__ import annotations

from storage.events import serve_specification
from tasks.lora.__main__ import work

if __name__ == "__main__":
    raise SystemExit(serve_specification(work))
