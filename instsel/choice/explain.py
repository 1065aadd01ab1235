"""Why a row was chosen or not: its rank in every selection, and the validation rows that it helps and hurts."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from instsel.arrays import moments
from instsel.choice.budget import Budget
from instsel.choice.influence import influence_matrix
from instsel.choice.output import TABLE
from instsel.choice.picks import MethodChooser, PickRequest
from instsel.choice.reselect import SELECTIONS, open_study, reselections
from instsel.config.study import SelectionPart, StudyConfig
from instsel.errors import InputError
from instsel.selection.base import AttributionSpec, Method, Requires
from instsel.study.attribution_specs import metrics_spec
from instsel.study.reader import StudyReader
from instsel.study.runs import selections_of

SHOWN = 5
RANKED_ROWS = 50_000
"""A ranking of a whole pool above this takes longer than a person wants to wait."""
RANKED: set[Requires] = {"index", "influence", "likelihood", "hidden_states", "prompts"}


@dataclass(frozen=True)
class Standing:
    """A row in one selection.

    Attributes:
        selection: its name.
        chosen: rows that it has.
        rank: of the row, from 1; among the whole pool where it was not chosen, None where that is not known.
        is_chosen: whether the row is in it.
        score, reason: of the pick, where it was chosen.
    """

    selection: str
    chosen: int
    rank: int | None
    is_chosen: bool
    score: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Effect:
    """Influence of the row on a validation row, and the same in deviations of the pool above the pool's mean."""

    subtask: str
    example: str
    prompt: str
    influence: float
    standard: float


@dataclass(frozen=True)
class Explanation:
    """Everything a study folder says of a row.

    Attributes:
        row: of stage *prepare*: id, source, task, messages, tokens, file, line.
        standings: by selection.
        influence: name of its attribution spec.
        helped, hurt: validation rows with the highest influence, and with the lowest, most extreme first; None where
            the study has no gradients or the row has none.
    """

    row: Mapping[str, Any]
    standings: list[Standing]
    influence: str | None = None
    helped: list[Effect] | None = None
    hurt: list[Effect] | None = None


@dataclass(frozen=True)
class _Origin:
    """How a selection came about: its method and seed, and the influence for a method that names none itself."""

    method: Method
    seed: int
    part: SelectionPart


def explain(uri: str, row: str) -> Explanation:
    """Gather what a study's folder says of a row.

    Args:
        uri: of the study folder.
        row: id of a pool row.

    Raises:
        InputError: there is no such study or row.
    """
    study, reader = open_study(uri)
    index = pc.index(reader.index["id"], row).as_py()
    if index < 0:
        raise InputError(f"{uri} has no pool row {row!r}; ids are in select/*/selected.jsonl and prepare/index.parquet")
    shard = reader.index["shard"][index].as_py()
    table = (reader.study / "prepare" / "pool").read_table(f"{shard}.parquet")
    (item,) = table.slice(pc.index(table["id"], row).as_py(), 1).to_pylist()
    standings = [_standing(reader, name, origin, row) for name, origin in _selections(study, reader).items()]
    if not reader.has("features"):
        return Explanation(item, standings)
    part = study.selection
    spec = metrics_spec(study) or AttributionSpec.of(part.attribution, part.damping)
    effects = _effects(reader, spec, row)
    if effects is None:
        return Explanation(item, standings)
    return Explanation(item, standings, spec.name, effects[:SHOWN], effects[: -SHOWN - 1 : -1])


def _selections(study: StudyConfig, reader: StudyReader) -> dict[str, _Origin]:
    """Return how every finished selection came about, by its folder, those of the study file first."""
    origins: dict[str, _Origin] = {}
    for name, run in selections_of(study).items():
        if reader.has(f"select/{name}"):
            origins[f"select/{name}"] = _Origin(run.method, run.seed, study.selection)
    for name, part in reselections(reader).items():
        origins[f"{SELECTIONS}/{name}"] = _Origin(part.methods[0], part.methods[0].seeds[0], part)
    return origins


def _standing(reader: StudyReader, name: str, origin: _Origin, row: str) -> Standing:
    picks = (reader.study / name).read_table(TABLE, ["id", "score", "reason"])
    shown, rank = name.partition("/")[2], pc.index(picks["id"], row).as_py()
    if rank >= 0:
        return Standing(shown, len(picks), rank + 1, True, picks["score"][rank].as_py(), picks["reason"][rank].as_py())
    return Standing(shown, len(picks), _rank(reader, origin, row), False)


def _rank(reader: StudyReader, origin: _Origin, row: str) -> int | None:
    """Return the row's rank if the budget were the whole pool; None where a larger budget would be another choice."""
    method, part = origin.method, origin.part
    shares = method.quota_shares(part.quotas, reader.prepared.targets)
    budget = Budget(len(reader.index))
    request = PickRequest(method, origin.seed, budget, part.attribution, part.damping, quotas=shares)
    if not request.is_prefix_stable or method.requires not in RANKED or len(reader.index) > RANKED_ROWS:
        return None
    chooser = MethodChooser.of(request, reader)
    if row not in chooser.ids:
        return None
    with warnings.catch_warnings():
        # That there are not so many rows does not concern the selection.
        warnings.simplefilter("ignore")
        order = chooser.pick(len(chooser.ids)).indices
    ranks = np.flatnonzero(order == chooser.ids.index(row))
    # A method that is held to some sources never chooses the others' rows.
    return int(ranks[0]) + 1 if ranks.size else None


def _effects(reader: StudyReader, spec: AttributionSpec, row: str) -> list[Effect] | None:
    """Return the influence of the row on every validation row, highest first; None where the row has no gradient."""
    matrix = influence_matrix(reader, spec)
    if row not in matrix.ids:
        return None
    influence = matrix.values[matrix.ids.index(row)].astype(np.float64)
    mean, deviation = moments(matrix.values)
    standard = (influence - mean) / deviation
    columns, prompts = matrix.columns.to_pylist(), _prompts(reader, matrix.columns["target"].to_pylist())
    effects = [
        Effect(column["subtask"], column["id"], prompts[column["id"]], float(value), float(above))
        for column, value, above in zip(columns, influence, standard, strict=True)
    ]
    return sorted(effects, key=lambda effect: -effect.influence)


def _prompts(reader: StudyReader, targets: list[str]) -> dict[str, str]:
    """Return what the last user turn of each validation row says."""
    prompts = {}
    for target in dict.fromkeys(targets):
        table = (reader.study / "prepare" / "targets" / target).read_table("validation.parquet", ["id", "messages"])
        for item in table.to_pylist():
            turns = [message["content"] for message in item["messages"] if message["role"] == "user"]
            prompts[item["id"]] = turns[-1] if turns else ""
    return prompts
