"""Keeping the terminal for the study."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def native_errors_to(path: Path) -> Iterator[None]:
    """Append to a file what C++ code writes to standard error while the block runs; Python's own output is not touched.

    Ray's C++ side writes notices there that a user cannot act on, whatever level its Python loggers have.
    """
    sys.stderr.flush()
    terminal, ours = os.dup(2), sys.stderr
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    if _is_descriptor_2(ours):
        sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=ours.encoding, errors=ours.errors)
    try:
        yield
    finally:
        if sys.stderr is not ours:
            sys.stderr.close()
            sys.stderr = ours
        os.dup2(terminal, 2)
        os.close(terminal)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return getattr(stream, "fileno", lambda: None)() == 2
    except OSError:
        return False
