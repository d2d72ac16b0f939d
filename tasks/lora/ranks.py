"""Several processes that train as one: each takes its rows of every batch, and they add up their sums.

``mlx.launch`` starts the processes; alone, a process is rank 0 of 1 and nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.utils import average_gradients
from mlx.utils import tree_map

from storage.errors import PrerequisiteError


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together; rank 0 leads: it writes the files and reports."""

    group: Any = None
    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Ranks:
        """Join the processes that were launched together; alone if none were."""
        group = mx.distributed.init()
        return cls(group, group.rank(), group.size())

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and reports."""
        return self.rank == 0

    def total(self, values: mx.array) -> mx.array:
        """Add up an array over all processes."""
        return values if self.size == 1 else mx.distributed.all_sum(values, group=self.group)

    def count(self, number: int) -> int:
        """Add up a whole number over all processes."""
        return number if self.size == 1 else int(np.array(self.total(mx.array([number], mx.int32)))[0])

    def total_gradients(self, gradients: Any) -> Any:
        """Add up gradients over all processes, small tensors together in one message."""
        if self.size == 1:
            return gradients
        means = average_gradients(gradients, self.group)
        return tree_map(lambda mean: mean * self.size, means)

    def require_same(self, numbers: dict[str, int]) -> None:
        """Raise PrerequisiteError unless all started from the same state."""
        if self.size == 1:
            return
        # Where they differ, the process with the largest number sees a total that is too small.
        mine = mx.array([value % 2**20 for value in numbers.values()], mx.int32)
        same = mx.array_equal(self.total(mine), mine * self.size)
        if self.count(int(bool(same))) != self.size:
            raise PrerequisiteError(
                f"the {self.size} processes did not start from the same state ({', '.join(numbers)} differ): give each "
                "the same store with the same base model, mixture and checkpoint"
            )
