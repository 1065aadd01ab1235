"""Where a training worker leaves how far it is, for the driver to look at."""

from typing import Any

import ray


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Holds the latest values that anyone wrote."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def update(self, **values: Any) -> None:
        """Replace the values of these names."""
        self._values.update(values)

    def read(self) -> dict[str, Any]:
        """All values so far."""
        return dict(self._values)
