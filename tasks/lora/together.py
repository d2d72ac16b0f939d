"""The name under which ``mlx.launch`` was documented before ``python -m tasks.lora`` did the same."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tasks.lora", run_name="__main__")
