"""Environment variables that a library reads, set for the time of a block."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def default_variables(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set variables while the block runs; those that the user has set keep their values."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
