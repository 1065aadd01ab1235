"""The level of each row in a curriculum."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from instsel.config.mixture import Curriculum
from instsel.errors import InputError
from instsel.mixture.categories import OTHER
from instsel.mixture.dependency import INTERMEDIATE, LEVELS
from instsel.study.reader import StudyReader


def levels_of_rows(curriculum: Curriculum, reader: StudyReader, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return levels of rows by their categories, int64 (N,): 0 preliminary, 1 intermediate, 2 subsequent.

    Args:
        curriculum: whether levels are by dependencies, or which the user gave.
        reader: the study, with its categories, and with interventions where levels are by dependencies.
        ids: of the rows.

    Raises:
        InputError: levels are given to a category that is not there.
    """
    if curriculum.levels == "dependencies":
        level_of = reader.interaction("interventions")["dependency"]["levels"]
    else:
        level_of = curriculum.levels
        known = {*reader.category_of.values(), OTHER}
        unknown = sorted(set(level_of) - known)
        if unknown:
            raise InputError(
                f"curriculum.levels names {unknown[0]!r}, which is no category; they are {', '.join(sorted(known))}"
            )
    number = {name: LEVELS.index(level) for name, level in level_of.items()}
    levels = [number.get(reader.category_of[row], INTERMEDIATE) for row in ids]
    return np.array(levels, dtype=np.int64)
