"""What has to end in bounded time is held to processor time: a clock also counts what else the machine does."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

BOUNDED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def within(seconds: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a test fail that uses more processor time than this at one example."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def measured(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            result = test(*arguments, **named)
            assert time.process_time() - began < seconds
            return result

        return measured

    return decorate
