"""Where a training worker leaves how far it is, for the driver to look at."""

import time
from typing import Any

import ray


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Holds the latest values that anyone wrote, and each writing until it is taken."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._news: list[dict[str, Any]] = []

    def update(self, **values: Any) -> None:
        """Replace the values of these names."""
        self._values.update(values)
        self._news.append({"time": time.monotonic(), **values})

    def news(self) -> list[dict[str, Any]]:
        """What was written since this was last asked for, each with its time in seconds."""
        taken, self._news = self._news, []
        return taken

    def read(self) -> dict[str, Any]:
        """All values so far."""
        return dict(self._values)
