"""Scores of answers to validation rows, by which *headroom* judges targets that have test rows of their own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from instsel.config.rows import Scoring, Target
from instsel.config.study import StudyConfig
from instsel.data.messages import BadRow, Message
from instsel.data.test_items import TestItem
from instsel.evaluation.tasks import written_item
from instsel.io.store import Folder
from instsel.pipeline.accuracy import GENERATED_COST
from instsel.pipeline.commands import added_cost
from instsel.pipeline.scorer import Scorer
from instsel.study.estimates import RowSet
from instsel.study.stage import Cost, RunContext, Settings

ITEMS, SCORED = "items", "answers"
"""Folders in that of *headroom*: rows to score, and scores."""


@dataclass(frozen=True)
class ScoredFold:
    """Validation rows of a target that an adapter, which was not trained on them, and the base model answer.

    Attributes:
        name: of the adapter's run.
        target: that the rows are of.
        rows: their ids.
        adapter: folder of the adapter.
    """

    name: str
    target: str
    rows: Sequence[str]
    adapter: Folder

    @property
    def base(self) -> str:
        """Name of the base model's answers to the same rows."""
        return f"base-of-{self.name}"


def scored_targets(config: StudyConfig) -> dict[str, tuple[Target, Scoring]]:
    """Return the targets whose validation rows can be scored: those with test rows, save programs.

    The validation rows of a task of lm-eval are not its documents, and those of programs come without tests.
    """
    return {
        name: (target, target.scoring)
        for name, target in config.targets.items()
        if target.test is not None and target.scoring is not None and target.scoring.metric != "code"
    }


def scoring_settings(config: StudyConfig) -> Settings:
    """Return how the answers are scored, target by target."""
    return {
        name: target.model_dump(mode="json", include={"scoring", "by"})
        for name, (target, _) in scored_targets(config).items()
    }


def score_folds(context: RunContext, folder: Folder, folds: Sequence[ScoredFold]) -> Cost:
    """Score what is not scored yet, adapters and base model alike; rows that cannot be scored are left out.

    Args:
        context: of the run.
        folder: of *headroom*.
        folds: what is scored; those of targets without scores are passed over.
    """
    from instsel.runtime.actors import ActorPool

    config, targets = context.config, scored_targets(context.config)
    prepare = context.stage("prepare").folder
    adapters: dict[str, Folder | None] = {}
    items = []
    for fold in (fold for fold in folds if fold.target in targets):
        rows = _items(prepare, fold, targets[fold.target][1])
        if not len(rows):
            continue
        (folder / ITEMS).write_table(f"{fold.name}.parquet", rows)
        for run, adapter in ((fold.base, None), (fold.name, fold.adapter)):
            adapters[run] = adapter
            if not (folder / SCORED / run).exists(f"{fold.target}.parquet"):
                items.append({"run": run, "target": fold.target, "rows": f"{ITEMS}/{fold.name}.parquet"})
    outs = {run: folder / SCORED / run for run in adapters}
    arguments = (config, adapters, outs)
    pool = ActorPool("headroom", items, folder, Scorer, arguments, lambda _: folder, ["messages", "test"])
    cost = Cost(seconds=0.0)
    with context.console.bar("headroom", len(items), "sets") as bar:
        for row in pool.run(context.resources):
            cost = added_cost(cost, row["seconds"], row["peak_memory"])
            bar.advance(1)
    return cost


def score_gains(folder: Folder, fold: ScoredFold) -> dict[str, float]:
    """Return what each row of a fold gained in score, by its id; empty where they are not scored."""
    out, name = folder / SCORED, f"{fold.target}.parquet"
    if not (out / fold.name).exists(name):
        return {}
    ids = (folder / ITEMS).read_table(f"{fold.name}.parquet", ["row"])["row"].to_pylist()
    before, after = ((out / run).read_table(name, ["correct"])["correct"].to_numpy() for run in (fold.base, fold.name))
    return dict(zip(ids, (after - before).tolist(), strict=True))


def scored_lengths(config: StudyConfig, validation: Mapping[str, RowSet]) -> list[RowSet]:
    """Return the rows that are scored, by target, with what is generated as tokens of a forward pass."""
    sets = []
    for name, (_, scoring) in scored_targets(config).items():
        generated = 0 if scoring.metric == "choice" else GENERATED_COST * scoring.max_tokens
        lengths = validation[name].lengths + generated
        sets.append(RowSet(len(lengths), 1, lengths, np.zeros_like(lengths)))
    return sets


def _items(prepare: Folder, fold: ScoredFold, scoring: Scoring) -> pa.Table:
    """Return the rows of a fold as items of a task: number, conversation, tokens, item as JSON, and id of the row."""
    columns = ["id", "messages", "choices", "tokens"]
    table = (prepare / "targets" / fold.target).read_table("validation.parquet", columns)
    asked = {row["id"]: (_item(row["messages"], row["choices"], scoring), row) for row in table.to_pylist()}
    # A task has one system turn for all its items.
    system = next((item.system for item, _ in asked.values() if item is not None), "")
    wanted, lines = set(fold.rows), list[dict[str, object]]()
    for name, (item, row) in asked.items():
        if name in wanted and item is not None and item.system == system:
            lines.append({**row, "row": name, "id": str(len(lines)), "test": item.to_json()})
    kinds = {"id": pa.string(), "row": pa.string(), "tokens": pa.int32(), "test": pa.string()}
    schema = pa.schema({**kinds, "messages": table.schema.field("messages").type})
    return pa.Table.from_pylist(lines, schema)


def _item(messages: Sequence[Message], choices: Sequence[str] | None, scoring: Scoring) -> TestItem | None:
    """Return a conversation of one question as an item; None for one that a task cannot ask.

    What is right is what the filter finds in the answer, as it does in a response.
    """
    turns = {turn["role"]: turn["content"] for turn in messages}
    if [turn["role"] for turn in messages] not in (["user", "assistant"], ["system", "user", "assistant"]):
        return None
    answer = turns["assistant"]
    if scoring.filter is not None:
        matches = re.findall(scoring.filter, answer)
        if not matches:
            return None
        answer = matches[-1] if isinstance(matches[-1], str) else next((group for group in matches[-1] if group), "")
    item = TestItem(turns["user"], turns.get("system", ""), (answer,), tuple(choices) if choices else None)
    try:
        written_item(item, scoring, cloze=False)
    except BadRow:
        return None
    return item
