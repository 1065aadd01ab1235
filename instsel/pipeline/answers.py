"""Stage *answers*: the right answer of each validation or held-out row and others to the same prompt, tokenised."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from instsel.config.study import Data, Model, StudyConfig
from instsel.data.encode import encoding_options
from instsel.data.encode_answers import ROW, Draw, encode_answers
from instsel.io.store import Folder
from instsel.study.estimates import ID_BYTES, TOKEN_BYTES, RowSet
from instsel.study.results import AnswersResult, PrepareResult
from instsel.study.stage import Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

VALIDATION, HELDOUT = "validation", "heldout"


class Answers(Stage[AnswersResult]):
    """Draw other answers and tokenise all of them, a table for each target; one folder a split."""

    name = "answers"
    position = 15

    def keys(self, config: StudyConfig) -> list[str]:
        return [VALIDATION, HELDOUT]

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("prepare")]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        settings: Settings = config.answers.model_dump(mode="json")
        return settings

    def run_key(self, context: RunContext, key: str) -> Finished[AnswersResult]:
        import ray

        from instsel.runtime.session import useful_processes

        config, prepare, folder = context.config, context.stage("prepare"), context.stage(self.name, key).folder
        splits = {
            name: of_target[key]
            for name, of_target in prepare.result(PrepareResult).targets.items()
            if key in of_target
        }
        # With the date that the rows have.
        date = prepare.result(PrepareResult).date
        data = config.data.model_copy(update={"date": None if date is None else dt.date.fromisoformat(date)})
        answers = (1 + config.answers.others) * sum(split.rows for split in splits.values())
        tasks = useful_processes(max(1, len(splits)), answers * ANSWER_TOKENS)
        encoding: Any = ray.remote(_encode)
        plans = {
            name: Draw(config.answers.others, config.answers.seed, config.targets[name].subtask is not None)
            for name in splits
        }
        parts = [
            encoding.remote(prepare.folder / "targets", folder, key, (config.model, data), dict(part))
            for part in (list(plans.items())[first::tasks] for first in range(tasks))
        ]
        by_target = {name: counts for part in ray.get(parts) for name, counts in part.items()}
        items = {name: by_target[name][0] for name in splits}
        rejected = {row: reason for name in splits for row, reason in by_target[name][1].items()}
        context.console.say(_summary(key, items, rejected))
        return Finished(AnswersResult(items=items, rejected=rejected))

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        """Return what it takes by the speed of *prepare*; where that is done, the time is not known and small."""
        counts, answers = context.counts, 1 + context.config.answers.others
        known = {VALIDATION: counts.validation, HELDOUT: counts.heldout}
        sets = [part for key in keys for part in known[key]]
        tokens = answers * sum(part.tokens for part in sets)
        prepared = sum(part.tokens for part in (*counts.pool, *counts.validation, *counts.heldout))
        rows = answers * sum(part.rows for part in sets)
        return StageEstimate(
            self.name,
            rows=rows,
            tokens=tokens,
            seconds=counts.prepare_seconds * tokens / max(1, prepared),
            memory=counts.prepare_memory,
            disk=rows * ID_BYTES + tokens * TOKEN_BYTES,
            memory_advice="lower answers.others",
        )


ANSWER_TOKENS = 200
"""Of a prompt with an answer, about: what is worth another process is not counted before it is tokenised."""


def answers_of(rows: RowSet, answers: int) -> RowSet:
    """Return rows with so many answers each, all as long as the one that is known."""
    return RowSet(answers * rows.rows, rows.shards, np.repeat(rows.lengths, answers), np.repeat(rows.answers, answers))


def _encode(
    targets: Folder, out: Folder, split: str, encoding: tuple[Model, Data], plans: Mapping[str, Draw]
) -> dict[str, tuple[int, dict[str, str]]]:
    """Write the answers of targets that are not there yet; items of each, and those that are left out with reasons."""
    from instsel.models.loading import load_tokenizer

    model, data = encoding
    tokenizer: Any = None
    counts = {}
    for name, draw in plans.items():
        if not out.exists(f"{name}.parquet"):
            tokenizer = tokenizer or load_tokenizer(model)
            rows = (targets / name).read_table(f"{split}.parquet", ROW)
            answers, rejected = encode_answers(rows, tokenizer, encoding_options(data), draw)
            out.write_json(f"{name}.rejected.json", rejected)
            out.write_table(f"{name}.parquet", answers)
        items = pc.count_distinct(out.read_table(f"{name}.parquet", ["row"])["row"]).as_py()
        counts[name] = items, out.read_json(f"{name}.rejected.json")
    return counts


def _summary(split: str, items: Mapping[str, int], rejected: Mapping[str, str]) -> str:
    text = f"{split} rows with other answers: {', '.join(f'{name} {count}' for name, count in items.items()) or 'none'}"
    return f"{text}; {len(rejected)} without" if rejected else text
