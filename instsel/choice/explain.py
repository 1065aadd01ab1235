"""Why a row was chosen or not: its place in every selection, and the validation rows that it helps and hurts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.arrays import moments
from instsel.choice.choosers import chooser
from instsel.choice.influence import influence_matrix
from instsel.choice.output import TABLE
from instsel.choice.reselect import SELECTIONS, open_study, reselections
from instsel.config.study import SelectionPart, StudyConfig
from instsel.errors import InputError
from instsel.selection.methods import AnyMethod, AttributionSpec
from instsel.study.attribution_specs import metrics_spec
from instsel.study.reader import StudyReader

SHOWN = 5
# A ranking of a whole pool above this takes longer than one wants to wait.
RANKED_ROWS = 50_000
RANKED = {"prepare", "attribution", "likelihood", "hidden_states"}


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
    """Influence of the row on a validation row, and that in deviations of the pool above the pool's mean."""

    subtask: str
    example: str
    prompt: str
    influence: float
    standard: float


@dataclass(frozen=True)
class Explanation:
    """All that is told of a row.

    Attributes:
        row: of stage *prepare*: id, source, task, messages, tokens, file, line.
        standings: by selection.
        way: name of the influence.
        helped, hurt: validation rows with the highest influence, and with the lowest, most extreme first; None where
            the study has no gradients or the row has none.
    """

    row: Mapping[str, Any]
    standings: list[Standing]
    way: str | None = None
    helped: list[Effect] | None = None
    hurt: list[Effect] | None = None


@dataclass(frozen=True)
class _Made:
    """How a selection was made: its method and seed, and the influence that a method reads which names none itself."""

    method: AnyMethod
    seed: int
    part: SelectionPart


def explain(place: str, row: str) -> Explanation:
    """Gather what a study's folder says of a row.

    Raises:
        InputError: there is no such study or row.
    """
    study, reader = open_study(place)
    ids = reader.index["id"].to_pylist()
    if row not in ids:
        raise InputError(
            f"{place} has no pool row {row!r}; ids are in select/*/selected.jsonl and prepare/index.parquet"
        )
    shard = reader.index["shard"][ids.index(row)].as_py()
    table = (reader.study / "prepare" / "pool").read_table(f"{shard}.parquet")
    found = next(item for item in table.to_pylist() if item["id"] == row)
    standings = [_standing(reader, name, made, row) for name, made in _selections(study, reader).items()]
    if not reader.has("features"):
        return Explanation(found, standings)
    part = study.selection
    way = metrics_spec(study) or AttributionSpec.of(part.attribution, part.damping)
    effects = _effects(reader, way, row)
    if effects is None:
        return Explanation(found, standings)
    return Explanation(found, standings, way.name, effects[:SHOWN], effects[: -SHOWN - 1 : -1])


def _selections(study: StudyConfig, reader: StudyReader) -> dict[str, _Made]:
    """How every finished selection was made, by its folder, those of the study first."""
    found: dict[str, _Made] = {}
    for method in study.selection.methods:
        for seed in method.seeds if method.is_stochastic else [0]:
            name = f"{method.name}-{seed}" if method.is_stochastic and len(method.seeds) > 1 else method.name
            if reader.has(f"select/{name}"):
                found[f"select/{name}"] = _Made(method, seed, study.selection)
    for name, asked in reselections(reader).items():
        found[f"{SELECTIONS}/{name}"] = _Made(asked.methods[0], asked.methods[0].seeds[0], asked)
    return found


def _standing(reader: StudyReader, name: str, made: _Made, row: str) -> Standing:
    picks = (reader.study / name).read_table(TABLE, ["id", "score", "reason"]).to_pylist()
    shown = name.partition("/")[2]
    for rank, pick in enumerate(picks):
        if pick["id"] == row:
            return Standing(shown, len(picks), rank + 1, True, pick["score"], pick["reason"])
    return Standing(shown, len(picks), _rank(reader, made, row), False)


def _rank(reader: StudyReader, made: _Made, row: str) -> int | None:
    """Place of the row if the budget were the whole pool; None where a larger budget would be another choice."""
    method, part = made.method, made.part
    if (
        not method.is_prefix_stable
        or method.mixture
        or method.requires not in RANKED
        or len(reader.index) > RANKED_ROWS
    ):
        return None
    ready = chooser(method, made.seed, part.attribution, part.damping, reader)
    if row not in ready.ids:
        return None
    order = ready.pick(len(ready.ids)).indices.tolist()
    return order.index(ready.ids.index(row)) + 1


def _effects(reader: StudyReader, way: AttributionSpec, row: str) -> list[Effect] | None:
    """Influence of the row on every validation row, highest first."""
    matrix = influence_matrix(reader, way)
    if row not in matrix.ids:
        return None
    own = matrix.values[matrix.ids.index(row)].astype(np.float64)
    mean, deviation = moments(matrix.values)
    standard = (own - mean) / deviation
    columns, prompts = matrix.columns.to_pylist(), _prompts(reader, matrix.columns["target"].to_pylist())
    effects = [
        Effect(column["subtask"], column["id"], prompts[column["id"]], float(value), float(above))
        for column, value, above in zip(columns, own, standard, strict=True)
    ]
    return sorted(effects, key=lambda effect: -effect.influence)


def _prompts(reader: StudyReader, targets: list[str]) -> dict[str, str]:
    """What the last user turn of each validation row says."""
    prompts = {}
    for target in dict.fromkeys(targets):
        table = (reader.study / "prepare" / "targets" / target).read_table("validation.parquet", ["id", "messages"])
        for item in table.to_pylist():
            asked = [message["content"] for message in item["messages"] if message["role"] == "user"]
            prompts[item["id"]] = asked[-1] if asked else ""
    return prompts
