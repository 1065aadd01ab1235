"""Answers to validation rows are scored for headroom: adapters and base model on the same rows, once each."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from instsel.config.file import parse_study
from instsel.data.test_items import TestItem
from instsel.io.store import Folder
from instsel.pipeline.evaluate import last_adapter
from instsel.pipeline.validation_scores import ScoredFold, score_folds, score_gains, scored_targets, scoring_settings
from tests.studies import stage_context

SCORING = {"metric": "f1", "max_tokens": 3}


@pytest.fixture
def raw(finished_study: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The finished study, whose answers about cities are scored."""
    test = tmp_path / "test.jsonl"
    test.write_text('{"messages": [{"role": "user", "content": "Where to?"}], "answer": "Oslo"}\n')
    cities = {**finished_study["targets"]["cities"], "test": str(test), "scoring": SCORING}
    return {**finished_study, "targets": {**finished_study["targets"], "cities": cities}}


@pytest.fixture
def folds(raw: dict[str, Any]) -> list[ScoredFold]:
    """Two of cities, and one of a target whose answers are not scored."""
    context = stage_context(raw)
    ids = {
        name: (context.stage("prepare").folder / "targets" / name).read_table("validation.parquet")["id"].to_pylist()
        for name in ("cities", "sums")
    }
    adapter = last_adapter(context, "random")
    return [
        ScoredFold("run-cities-0", "cities", ids["cities"][:3], adapter),
        ScoredFold("run-cities-1", "cities", ids["cities"][3:], adapter),
        ScoredFold("run-sums-0", "sums", ids["sums"], adapter),
    ]


def test_every_row_is_answered_once_by_its_adapter_and_once_by_the_base_model(
    raw: dict[str, Any], folds: list[ScoredFold], resources: Any, in_this_process: list[str], tmp_path: Path
) -> None:
    folder = Folder.at(tmp_path / "headroom").create()
    cost = score_folds(stage_context(raw, resources), folder, folds)
    first, second = "items/run-cities-0.parquet", "items/run-cities-1.parquet"
    assert in_this_process == [first, first, second, second] and cost.seconds > 0
    for fold in folds[:2]:
        answers = [(folder / "answers" / run).read_table("cities.parquet") for run in (fold.base, fold.name)]
        assert [len(table) for table in answers] == [len(fold.rows)] * 2
        assert answers[0]["item"] == answers[1]["item"]
        assert score_gains(folder, fold).keys() == set(fold.rows)
    assert score_gains(folder, folds[2]) == {}
    in_this_process.clear()
    score_folds(stage_context(raw, resources), folder, folds)
    assert in_this_process == []


def test_a_gain_is_the_adapters_score_less_the_base_models(folds: list[ScoredFold], tmp_path: Path) -> None:
    folder, fold = Folder.at(tmp_path / "headroom"), folds[0]
    (folder / "items").write_table("run-cities-0.parquet", pa.table({"row": ["a", "b", "c"]}))
    for run, correct in ((fold.name, [1.0, 0.5, 0.0]), (fold.base, [0.0, 0.5, 0.25])):
        (folder / "answers" / run).write_table("cities.parquet", pa.table({"correct": correct}))
    assert score_gains(folder, fold) == {"a": 1.0, "b": 0.0, "c": -0.25}


def test_only_rows_of_ones_own_with_a_metric_are_scored(raw: dict[str, Any]) -> None:
    assert list(scored_targets(parse_study(raw, "test"))) == ["cities"]
    assert scoring_settings(parse_study(raw, "test")) == {
        "cities": {"by": "auto", "scoring": {"metric": "f1", "filter": None, "max_tokens": 3, "until": []}}
    }
    raw["targets"]["cities"]["scoring"] = "code"
    study = parse_study({**raw, "evaluation": {**raw["evaluation"], "run_code": True}}, "test")
    assert scored_targets(study) == {}


def test_rows_that_no_task_can_ask_are_left_out(raw: dict[str, Any], resources: Any, tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "Which?\nA. x\nB. y"}, {"role": "assistant", "content": "A"}
    conversations = {
        "good": [user, answer],
        "listed": [{"role": "user", "content": "Which?"}, answer],
        "several turns": [user, answer, user, answer],
        "another system turn": [{"role": "system", "content": "Be brief."}, user, answer],
        "no option": [user, {"role": "assistant", "content": "z"}],
    }
    choices = {"listed": ["A", "C"]}
    raw["targets"]["cities"]["scoring"] = "choice"
    asked = asked_items(raw, conversations, choices, resources, tmp_path)
    assert asked["row"].to_pylist() == ["good", "listed"]


def test_bug_a_filter_was_not_applied_to_the_right_answer(raw: dict[str, Any], resources: Any, tmp_path: Path) -> None:
    user = {"role": "user", "content": "2 + 40?"}
    answers = {"worked": "First 2, then 40. #### 40 #### 42", "bare": "42"}
    conversations = {name: [user, {"role": "assistant", "content": text}] for name, text in answers.items()}
    raw["targets"]["cities"]["scoring"] = {"metric": "exact_match", "filter": r"#### (-?\d+)"}
    asked = asked_items(raw, conversations, {}, resources, tmp_path)
    assert asked["row"].to_pylist() == ["worked"]
    assert [TestItem.from_json(text).answers for text in asked["test"].to_pylist()] == [("42",)]


def asked_items(
    raw: dict[str, Any], conversations: dict[str, Any], choices: dict[str, list[str]], resources: Any, folder: Path
) -> pa.Table:
    """Return the items that are made of some validation rows; none is scored."""
    rows = [
        {"id": name, "messages": turns, "choices": choices.get(name, []), "tokens": 3}
        for name, turns in conversations.items()
    ]
    table = pa.Table.from_pylist(rows)
    if not choices:
        table = table.set_column(2, "choices", pa.array([[]] * len(rows), pa.list_(pa.string())))
    (Folder.at(folder / "out" / "prepare") / "targets" / "cities").write_table("validation.parquet", table)
    context = stage_context({**raw, "out": str(folder / "out")}, resources)
    headroom = Folder.at(folder / "headroom")
    fold = ScoredFold("run", "cities", list(conversations), Folder.at(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("instsel.runtime.actors.ActorPool.run", lambda pool, resources: iter(()))
        score_folds(context, headroom, [fold])
    return (headroom / "items").read_table("run.parquet")
