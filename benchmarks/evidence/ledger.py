"""Keep the results of a finished study as small Parquet files, and compare its arms from these alone.

A study's folder in the ledger has study.yaml, stages.parquet (seconds and tokens), selections.parquet (ids in pick
order), losses.parquet (a line a run and held-out row), where answers are scored items.parquet (a line a run and test
item), and headroom.json where the study has asked for it. Runs are added; what is there is never changed.
"""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import instsel
from instsel.config.file import dump_yaml, parse_study, plain_values
from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.report.accuracy import Values, compared_scores, judge_guards, loss_correlation
from instsel.report.compared import AccuracyFacts, ProbabilityFacts, Results
from instsel.report.headroom import HeadroomFacts, headroom, unmoved
from instsel.report.markdown import BASE
from instsel.report.record import StudyRecord
from instsel.report.results import compared_losses, mean_table
from instsel.stats import Bootstrap

SELECTIONS, LOSSES, ITEMS, STAGES = "selections.parquet", "losses.parquet", "items.parquet", "stages.parquet"
HEADROOM, STUDY = "headroom.json", "study.yaml"
POINTS = 100
# What identifies a line of each file: lines that are there already are not added again.
KEYS = {
    SELECTIONS: ["selection", "rank"],
    LOSSES: ["run", "target", "id"],
    ITEMS: ["run", "target", "item"],
    STAGES: ["stage"],
}
COSTS = ["stage", "seconds", "tokens"]


def add(folder: str, entry: Path) -> dict[str, int]:
    """Add the runs of a finished study to its entry; make the entry where there is none.

    Returns:
        Lines that are new, by file.

    Raises:
        InputError: the study lacks results or has several budgets, or a line of the entry is not what the study has.
    """
    study = instsel.open_study(folder)
    if len(study.config.selection.budgets) > 1:
        raise InputError(f"{folder} has several budgets; the ledger compares arms of one, add a study of each")
    moved = _headroom(study.path)
    if moved and (entry / HEADROOM).exists() and json.loads((entry / HEADROOM).read_text()) != moved:
        raise InputError(f"{entry / HEADROOM} is not what the study has; a study made again is a new entry")
    tables = {SELECTIONS: _selections(study), LOSSES: _losses(study), STAGES: study.stages.select(COSTS)}
    if study.config.measured:
        tables[ITEMS] = study.accuracy().drop_columns(["answer", "right"])
    entry.mkdir(parents=True, exist_ok=True)
    merged = {name: _merge(entry / name, table) for name, table in tables.items()}
    for name, (table, _) in merged.items():
        _write(entry / name, table)
    if moved:
        _replace(entry / HEADROOM, (json.dumps(moved, indent=2) + "\n").encode())
    # The last, so that an entry with it is whole.
    (entry / STUDY).write_text(dump_yaml(without_paths(study.config.model_dump(mode="json"))), encoding="utf-8")
    return {name: new for name, (_, new) in merged.items()}


def read_config(entry: Path) -> StudyConfig:
    """Read the study file of an entry."""
    return parse_study(plain_values((entry / STUDY).read_text(encoding="utf-8")), str(entry / STUDY))


def losses_of(entry: Path, excluded: Sequence[str] | None = None) -> Results:
    """Compare the held-out losses of the arms of an entry.

    Args:
        entry: its folder.
        excluded: targets that means and verdicts leave out; None for those that its headroom says cannot move.
    """
    table, bootstrap = pq.read_table(entry / LOSSES), _bootstrap(entry)
    runs, left_out = _runs(table), _left_out(entry, excluded)
    values = _values(table, "loss", "id")
    return compared_losses(values, runs, _baseline(entry, runs), bootstrap, excluded=left_out)


def headroom_of(entry: Path) -> dict[str, HeadroomFacts]:
    """Return what the targets of an entry can move; empty where its study has not asked for it."""
    path = entry / HEADROOM
    if not path.exists():
        return {}
    return {name: HeadroomFacts.model_validate(facts) for name, facts in json.loads(path.read_text()).items()}


def accuracy_of(entry: Path, excluded: Sequence[str] | None = None) -> AccuracyFacts | None:
    """Compare the scores of the arms of an entry; None where nothing is scored.

    Args:
        entry: its folder.
        excluded: as for `losses_of`.
    """
    if not (entry / ITEMS).exists():
        return None
    table, bootstrap, config = pq.read_table(entry / ITEMS), _bootstrap(entry), read_config(entry)
    runs = _runs(table)
    baseline, correct = _baseline(entry, runs), _values(table, "correct", "item")
    targets, guards = (
        {run: {name: each[name] for name in each if name in names} for run, each in correct.items()}
        for names in (config.targets, config.guards)
    )
    of_targets = table.filter(pc.is_in(table["target"], pa.array(list(config.targets))))
    probability = _values(of_targets.filter(pc.is_valid(of_targets["probability"])), "probability", "item")
    margins = {name: config.guards[name].margin / POINTS for name in guards[BASE]}
    left_out = _left_out(entry, excluded)
    return AccuracyFacts(
        **compared_scores(targets, runs, baseline, bootstrap, left_out),
        margins=margins,
        guards=judge_guards(guards, runs, margins, bootstrap) if margins else {},
        base_guards={name: float(values.mean()) for name, values in guards[BASE].items()},
        probability=ProbabilityFacts(**compared_scores(probability, runs, baseline, bootstrap, left_out))
        if probability
        else None,
        loss_correlation=loss_correlation(mean_table(targets), losses_of(entry, excluded)),
    )


def without_paths(value: Any, key: str = "") -> Any:
    """Return a study file whose folders are those of a reader: OUT, DATA, and names in place of paths."""
    if isinstance(value, dict):
        return {each: without_paths(inner, each) for each, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if key in ("out", "root"):
        return "OUT" if key == "out" else "DATA"
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _left_out(entry: Path, excluded: Sequence[str] | None) -> list[str]:
    return unmoved(headroom_of(entry)) if excluded is None else list(excluded)


def _headroom(folder: str) -> dict[str, Any]:
    return {name: facts.model_dump(mode="json") for name, facts in headroom(StudyRecord(folder)).items()}


def _selections(study: Any) -> pa.Table:
    parts = []
    for name in study.selections:
        table = study.selection(name)
        names = pa.array([name] * len(table), pa.string())
        parts.append(pa.table({"selection": names, "rank": table["rank"], "id": table["id"]}))
    return pa.concat_tables(parts)


def _losses(study: Any) -> pa.Table:
    methods = dict(zip(*(study.losses()[column].to_pylist() for column in ("run", "method")), strict=True))
    parts = []
    for run in study.runs:
        for target in (target for target in study.targets if study.config.targets[target].is_evaluated):
            rows = study.heldout(run, target)
            columns = {"run": [run] * len(rows), "method": [methods[run]] * len(rows), "target": [target] * len(rows)}
            parts.append(pa.table({**columns, **{name: rows[name] for name in rows.column_names}}))
    if not parts:
        raise InputError(f"{study.path} has no held-out losses; the ledger is of finished studies")
    return pa.concat_tables(parts)


def _merge(path: Path, table: pa.Table) -> tuple[pa.Table, int]:
    """Return what is there with what is new, and how many lines are new."""
    if not path.exists():
        return table, len(table)
    known, keys = pq.read_table(path), KEYS[path.name]
    positions = {line: number for number, line in enumerate(_lines(known, keys))}
    fresh = []
    for number, line in enumerate(_lines(table, keys)):
        if line not in positions:
            fresh.append(number)
        elif path.name != STAGES and table.slice(number, 1).to_pylist() != known.slice(positions[line], 1).to_pylist():
            raise InputError(
                f"{path}: {', '.join(map(str, line))} is not what the study has; a study made again is a new entry"
            )
    return pa.concat_tables([known, table.take(pa.array(fresh, pa.int64()))]), len(fresh)


def _lines(table: pa.Table, keys: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    return zip(*(table[key].to_pylist() for key in keys), strict=True)


def _write(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    _replace(path, buffer.getvalue())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)


def _runs(table: pa.Table) -> dict[str, list[str]]:
    """Return method -> its runs, the base model first."""
    runs: dict[str, list[str]] = {}
    pairs = dict.fromkeys(zip(table["run"].to_pylist(), table["method"].to_pylist(), strict=True))
    for run, method in sorted(pairs, key=lambda pair: pair[0] != BASE):
        runs.setdefault(method, []).append(run)
    return runs


def _values(table: pa.Table, column: str, item: str) -> dict[str, Values]:
    """Return run -> target -> values, of the same items in the same order."""
    values: dict[str, Values] = {}
    known: dict[str, list[str]] = {}
    groups = dict.fromkeys(zip(table["run"].to_pylist(), table["target"].to_pylist(), strict=True))
    for run, target in groups:
        part = table.filter((pc.field("run") == run) & (pc.field("target") == target))
        if known.setdefault(target, part[item].to_pylist()) != part[item].to_pylist():
            raise InputError(f"{run} has other items of {target} than the runs before it")
        values.setdefault(run, {})[target] = part[column].to_numpy().astype(np.float64)
    return values


def _baseline(entry: Path, runs: dict[str, list[str]]) -> str:
    named = [
        method.name for method in read_config(entry).selection.methods if method.is_baseline and method.is_comparable
    ]
    return next((name for name in named if name in runs), BASE)


def _bootstrap(entry: Path) -> Bootstrap:
    evaluation = read_config(entry).evaluation
    return Bootstrap(evaluation.bootstrap_samples, evaluation.confidence, evaluation.seed)
