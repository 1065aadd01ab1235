"""instsel: choose the instruction examples that are worth training on, and train on them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instsel.api.study import Study

__version__ = "0.6.0"


def open_study(path: str | Path) -> "Study":
    """Open the folder of a study to read what it found, and to choose again from it.

    Args:
        path: the `out` of a study that has run: a local path, s3://... or gs://...

    Raises:
        InputError: the folder holds no study.
    """
    # Here, so that `import instsel` stays instant.
    from instsel.api.study import open_study as read

    return read(path)
