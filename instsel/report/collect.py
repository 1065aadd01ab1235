"""Collects the facts of a study folder, finished or not: the one place where a report reads stages."""

import json
from dataclasses import asdict, dataclass, field
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from instsel.choice.influence import influence_matrix
from instsel.choice.metrics import selection_metrics
from instsel.choice.output import TABLE
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.mixture.dependency import LEVELS
from instsel.mixture.interaction import agreement
from instsel.report.accuracy import accuracy
from instsel.report.compared import AccuracyFacts, Compared, Results
from instsel.report.curve import curve
from instsel.report.facts import (
    AgreementFacts,
    BudgetPart,
    Composition,
    DividedBudget,
    InfluenceFacts,
    Lengths,
    Metrics,
    OrderFacts,
    Overlap,
    Provenance,
    Reading,
    SearchFacts,
    SelectionFacts,
    StageCost,
    StudyFacts,
)
from instsel.report.gains import gains
from instsel.report.headroom import headroom
from instsel.report.influence import influence, stored_attribution
from instsel.report.near_copies import SemanticCopies, near_copies, semantic_copies
from instsel.report.pool import Pool, composition, lengths, overlap
from instsel.report.reading import reading, rejected_rows
from instsel.report.record import StudyRecord, warnings
from instsel.report.results import results, runs_by_method
from instsel.report.spending import spending
from instsel.study.attribution_specs import metrics_spec
from instsel.study.results import InteractionResult, MixtureShares, PoolResult, RowCount, SplitCount
from instsel.training.dataset import ORDER

REPORT = "report"
SUMMARY = "summary.json"
SEARCH = "search"

DIVIDED_BY = {"g2is": "principal component", "smart": "task"}
"""Method that divides its budget -> what its parts are called."""

WEIGHTS = {"g2is": "component_shares", "smart": "task_gains"}
MOST_PARTS = 60
MOST_WINDOWS = 40
LEAST_ROWS = 8


@dataclass(frozen=True)
class Measured:
    """What the stage *report* measures once: later reports of the same results take it from summary.json.

    Attributes:
        versions: of packages.
        fingerprint: of the stage.
        metrics: of the selections, which take a pass over the stored gradients.
        semantic: prompts of nearly the same meaning, which take a pass over the embeddings.
    """

    versions: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    metrics: Metrics | None = None
    semantic: SemanticCopies | None = None


def collect(record: StudyRecord, measured: Measured | None = None) -> StudyFacts:
    """Collect the facts of a study, of a finished one and of one that is under way.

    Args:
        record: of the study.
        measured: by the stage *report*; by default what its last run wrote, as far as it still holds.
    """
    by_stage = earlier_measurement(record) if measured is None else measured
    by_budget = {budget: _compared(record, budget) for budget in record.config.selection.budgets}
    at_largest = by_budget[record.config.selection.largest_budget]
    by_method, with_other_answers = gains(record, at_largest.losses.runs)
    said = [sentence for each in by_budget.values() for sentence in each.warnings]
    return StudyFacts(
        study=record.config.name,
        path=record.path,
        model=record.config.model.name,
        dtype=record.config.model.dtype,
        budget=record.config.selection.budget,
        unit=record.config.selection.unit,
        warnings=[*warnings(record), *dict.fromkeys(said), *with_other_answers],
        missing=record.missing,
        **dict(at_largest.losses),
        accuracy=at_largest.scores,
        curve=curve(record, {budget: each.primary for budget, each in by_budget.items()}),
        arms=runs_by_method(record, record.runs),
        gains=by_method,
        headroom=headroom(record),
        selections={name: SelectionFacts.model_validate(result) for name, result in record.results("select").items()},
        metrics=by_stage.metrics,
        budgets=divided_budgets(record),
        **_categories(record),
        orders=training_orders(record),
        search=_search(record),
        rejected=rejected_rows(record),
        near_copies=near_copies(record, by_stage.semantic),
        cost={name: StageCost.model_validate(manifest["cost"]) for name, manifest in record.manifests.items()},
        spending=spending(record, [each.primary for each in by_budget.values()]),
        provenance=_provenance(record, by_stage),
        **_of_pool(record),
    )


@dataclass(frozen=True)
class _AtBudget:
    """The runs of a budget compared: by held-out losses, and by scores where there are some."""

    losses: Results
    scores: AccuracyFacts | None
    warnings: list[str]

    @property
    def primary(self) -> Compared:
        """Scores of targets where there are some, else losses."""
        return self.scores if self.scores is not None and self.scores.scores else self.losses


def _compared(record: StudyRecord, budget: int | float) -> _AtBudget:
    losses, incomparable = results(record, budget)
    scores, not_scored_alike = accuracy(record, losses, budget)
    return _AtBudget(losses, scores, [*incomparable, *not_scored_alike])


class PoolFacts(TypedDict, total=False):
    """The fields of `StudyFacts` that a look at the pool's rows fills; none where there is no pool yet."""

    pool: PoolResult
    targets: dict[str, dict[str, SplitCount]]
    composition: dict[str, Composition]
    lengths: dict[str, Lengths]
    overlap: Overlap
    influence: InfluenceFacts | None
    reading: Reading


class CategoryFacts(TypedDict):
    """The fields of `StudyFacts` that are about categories."""

    categories: dict[str, RowCount]
    interaction: dict[str, InteractionResult]
    agreement: dict[str, AgreementFacts]
    mixtures: dict[str, MixtureShares]


class PartNumbers(TypedDict):
    """What is counted of a part of a divided budget, see `BudgetPart`."""

    name: str
    rows: int
    tokens: int
    gain: float
    first: float
    last: float


def _of_pool(record: StudyRecord) -> PoolFacts:
    """What takes a look at the pool's rows."""
    if record.prepared is None:
        return {}
    pool = Pool(record)
    attribution = stored_attribution(record)
    measured, chosen = influence(pool, attribution) if attribution is not None and pool.chosen else (None, None)
    return {
        "pool": PoolResult.model_validate(record.prepared["pool"]),
        "targets": record.prepared["targets"],
        "composition": composition(pool),
        "lengths": lengths(pool),
        "overlap": overlap(pool),
        "influence": measured,
        "reading": reading(pool, chosen),
    }


def measure(record: StudyRecord, versions: dict[str, str], fingerprint: str) -> Measured:
    """Measure what the stage *report* measures once.

    Args:
        record: of the study, with every stage before the report.
        versions: of the packages that the report's stage runs with.
        fingerprint: of that stage.
    """
    spec, semantic = metrics_spec(record.config), semantic_copies(record)
    if spec is None:
        return Measured(versions, fingerprint, semantic=semantic)
    chosen = {
        name: (record.folder / "select" / name).read_table(TABLE, ["id"])["id"].to_pylist()
        for name in record.results("select")
    }
    by_selection = selection_metrics(chosen, influence_matrix(record.reader, spec), record.reader)
    return Measured(versions, fingerprint, Metrics(attribution=spec.name, by_selection=by_selection), semantic)


def earlier_measurement(record: StudyRecord) -> Measured:
    """Read what the stage *report* measured, if it is of the results that are there now; else the versions alone."""
    folder = record.folder / REPORT
    try:
        facts = read_summary(folder) if folder.exists(SUMMARY) else None
    except (InputError, ValueError):
        # Damaged, or of another version: it is written again from the stages.
        facts = None
    if facts is None:
        return Measured()
    try:
        record.reader.manifest(REPORT)
    except InputError:
        return Measured(facts.provenance.versions)
    metrics = facts.metrics
    if metrics is not None:
        # Keys of JSON files are sorted; selections are in the order of the study file.
        by_selection = {
            name: metrics.by_selection[name] for name in record.results("select") if name in metrics.by_selection
        }
        metrics = Metrics(attribution=metrics.attribution, by_selection=by_selection)
    semantic = None if facts.near_copies is None else facts.near_copies.semantic
    return Measured(facts.provenance.versions, facts.provenance.fingerprint, metrics, semantic)


def read_summary(folder: Folder) -> StudyFacts:
    """Read the facts that the last report of a study wrote into its folder."""
    return StudyFacts.model_validate(folder.read_json(SUMMARY))


def _provenance(record: StudyRecord, measured: Measured) -> Provenance:
    code = ", ".join(sorted({manifest["code_version"] for manifest in record.manifests.values()}))
    packages = {name: version for name, version in measured.versions.items() if name != "instsel" or not code}
    return Provenance(
        versions={**({"instsel": code} if code else {}), **dict(sorted(packages.items()))},
        fingerprint=measured.fingerprint,
        stages={name: manifest["fingerprint"] for name, manifest in record.manifests.items()},
        study_file=record.study_file,
    )


def _categories(record: StudyRecord) -> CategoryFacts:
    """How categories help each other, how far estimators agree, and the mixtures that follow."""
    interaction = {
        name: InteractionResult.model_validate(result) for name, result in record.results("interaction").items()
    }
    names = list(interaction)
    gamma = {name: np.array(facts.gamma, dtype=np.float64) for name, facts in interaction.items()}
    sizes = record.manifests["categorize"]["result"]["sizes"] if interaction else {}
    return {
        "categories": {name: RowCount.model_validate(size) for name, size in sizes.items()},
        "interaction": interaction,
        "agreement": {
            f"{names[0]} against {name}": AgreementFacts.model_validate(asdict(agreement(gamma[names[0]], gamma[name])))
            for name in names[1:]
        },
        "mixtures": {
            name: MixtureShares.model_validate(result["mixture"])
            for name, result in record.results("select").items()
            if "mixture" in result
        },
    }


def _search(record: StudyRecord) -> SearchFacts | None:
    folder = record.folder / SEARCH
    return SearchFacts.model_validate(folder.read_json(SUMMARY)) if folder.exists(SUMMARY) else None


def training_orders(record: StudyRecord) -> dict[str, OrderFacts]:
    """Collect the shares of the levels along each training that has an order of its own, by run."""
    orders = {}
    for name in record.results("finetune"):
        folder = record.folder / "finetune" / name
        if folder.exists(ORDER):
            levels = folder.read_table(ORDER, ["level"])["level"].to_numpy()
            windows = np.array_split(levels, min(MOST_WINDOWS, max(1, len(levels) // LEAST_ROWS)))
            orders[name] = OrderFacts(
                rows=np.cumsum([len(window) for window in windows]).tolist(),
                shares={
                    level: [float((window == number).mean()) for window in windows]
                    for number, level in enumerate(LEVELS)
                },
            )
    return orders


def divided_budgets(record: StudyRecord) -> dict[str, DividedBudget]:
    """Collect the parts of each selection by a method that divides its budget, in the order of their first picks."""
    budgets = {}
    for stage, manifest in record.manifests.items():
        method = manifest["settings"].get("method")
        if stage.startswith("select/") and method in DIVIDED_BY:
            table = (record.folder / stage).read_table(TABLE, ["reason", "tokens", "score"])
            weights = manifest["result"].get(WEIGHTS[method], {})
            parts = [
                BudgetPart(**part, weight=weights.get(_part_label(part["name"], method))) for part in _by_reason(table)
            ]
            budgets[stage.partition("/")[2]] = DividedBudget(method=method, parts=parts)
    return budgets


def _part_label(reason: str, method: str) -> str:
    """Return the component or task that a reason names; SMART's rows may be grouped by anything of one word."""
    return reason.rpartition(" ")[2] if method == "g2is" else reason.partition(" ")[2]


def _by_reason(table: pa.Table) -> list[PartNumbers]:
    numbered = table.append_column("pick", pa.array(range(len(table)), pa.int64()))
    aggregates = [("pick", "min"), ("pick", "count"), ("tokens", "sum")]
    aggregates += [("score", "sum"), ("score", "first"), ("score", "last")]
    grouped = numbered.group_by("reason", use_threads=False).aggregate(aggregates)
    names = {"reason": "name", "pick_count": "rows", "tokens_sum": "tokens", "score_sum": "gain"}
    names |= {"score_first": "first", "score_last": "last"}
    ordered = grouped.take(pc.sort_indices(grouped["pick_min"]))[:MOST_PARTS].select(list(names))
    parts: list[PartNumbers] = ordered.rename_columns(list(names.values())).to_pylist()
    return parts


def as_json(facts: StudyFacts) -> dict[str, JsonValue]:
    """Return the facts as JSON has them, without NaN."""
    values: dict[str, JsonValue] = json.loads(facts.model_dump_json())
    return values
