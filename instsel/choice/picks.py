"""A method's choice as a table: which rows, in which order, with which score, and why."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.choice.budget import Budget, choose
from instsel.choice.choosers import Chooser, chooser
from instsel.choice.constrained import MixedChoice
from instsel.config.mixture import Mixture
from instsel.errors import InputError
from instsel.selection.methods import AnyMethod, Form
from instsel.study.reader import StudyReader


def make_picks(
    method: AnyMethod,
    seed: int,
    budget: Budget,
    form: Form,
    damping: float,
    reader: StudyReader,
    say: Callable[[str], None],
    mixture: Mixture | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """Choose rows.

    Args:
        method: as the study file has it.
        seed: of a method that draws.
        budget: rows or tokens to choose.
        form: of the influence, for a method that names none itself.
        damping: of fisher, for a method that names none itself.
        reader: the study.
        say: is told what the method warns of.
        mixture: settings of the programme, for a method that keeps to its shares.

    Returns:
        One line a pick, in order: id, rank (from 0), score, reason. And what the choice goes by: `mixture`, where the
        method keeps to one, `task_gains` of smart (task -> gain) or `component_shares` of g2is (number from 1 -> share
        of the variance).

    Raises:
        InputError: the budget does not fit the pool, the study lacks what the method reads, or the method cannot choose
            so from what there is.
    """

    def of(pool: StudyReader) -> Chooser:
        return chooser(method, seed, form, damping, pool)

    mixed = None
    if method.mixture is not None:
        if mixture is None:
            raise InputError(f"{method.name}: mixture: {method.mixture} needs the key `mixture` in the study file")
        mixed = MixedChoice(of, method.mixture, mixture, reader)
    ready = of(reader) if mixed is None else mixed.chooser
    sizes = dict(zip(reader.index["id"].to_pylist(), reader.index["tokens"].to_pylist(), strict=True))
    nested = method.is_prefix_stable and mixed is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            found = choose(ready, budget.of(reader.prepared.pool), [sizes[row] for row in ready.ids], nested)
            about = ready.about()
        except ValueError as error:
            raise InputError(f"{method.name}: {error}") from error
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"{method.name}: {message}")
    table = pa.table(
        {
            "id": pa.array([ready.ids[place] for place in found.indices], pa.string()),
            "rank": pa.array(np.arange(len(found))),
            "score": pa.array(found.scores),
            "reason": pa.array(ready.why(found), pa.string()),
        }
    )
    kept = {"mixture": mixed.mix.told()} if mixed is not None and mixed.mix is not None else {}
    return table, {**about, **kept}
