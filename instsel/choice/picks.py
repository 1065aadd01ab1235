"""A method's choice as a table: which rows, in which order, with which score, and why."""

import warnings
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from instsel.choice.budget import Budget
from instsel.choice.choosers import chooser
from instsel.choice.inputs import Inputs
from instsel.choice.within import choose
from instsel.errors import InputError
from instsel.methods import AnyMethod, Form


def make_picks(
    method: AnyMethod,
    seed: int,
    budget: Budget,
    form: Form,
    damping: float,
    inputs: Inputs,
    say: Callable[[str], None],
) -> pa.Table:
    """Choose rows.

    Args:
        method: as the study file has it.
        seed: of a method that draws.
        budget: rows or tokens to choose.
        form: of the influence, for a method that names none itself.
        damping: of fisher, for a method that names none itself.
        inputs: the study.
        say: is told what the method warns of.

    Returns:
        One line a pick, in order: id, rank (from 0), score, reason.

    Raises:
        InputError: the budget does not fit the pool, the study lacks what the method reads, or the method cannot choose
            so from what there is.
    """
    ready = chooser(method, seed, form, damping, inputs)
    sizes = dict(zip(inputs.index["id"].to_pylist(), inputs.index["tokens"].to_pylist(), strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            found = choose(ready, budget.of(inputs.prepared["pool"]), [sizes[row] for row in ready.ids], method.nested)
        except ValueError as error:
            raise InputError(f"{method.name}: {error}") from error
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"{method.name}: {message}")
    return pa.table(
        {
            "id": pa.array([ready.ids[place] for place in found.indices], pa.string()),
            "rank": pa.array(np.arange(len(found))),
            "score": pa.array(found.scores),
            "reason": pa.array(ready.why(found), pa.string()),
        }
    )
