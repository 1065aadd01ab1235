"""Guards as a constraint of searches: a trial that harms one beyond its margin is out."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from instsel.config.file import parse_study
from instsel.config.search import Search
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.search.guards import harmed_guards, scored_guards
from instsel.search.run import search_study
from instsel.search.trial import OUTCOME, TrialStore
from instsel.study.runs import BASE
from instsel.study.stage import RunContext
from tests.toy import write_jsonl

ITEMS = 40


@pytest.fixture
def raw(finished_study: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The finished study, copied, with a guard."""
    out = tmp_path / "study"
    shutil.copytree(finished_study["out"], out)
    rows = [
        {"messages": [{"role": "user", "content": f"Letter {n}?\nA. alpha\nB. beta\nAnswer:"}], "answer": "AB"[n % 2]}
        for n in range(4)
    ]
    write_jsonl(tmp_path / "letters.jsonl", rows)
    letters = {"test": str(tmp_path / "letters.jsonl"), "scoring": "choice", "by": "letter", "margin": 10}
    return {**finished_study, "out": str(out), "guards": {"letters": letters}}


def test_what_lies_below_the_margin_with_its_whole_interval_is_harm(
    raw: dict[str, Any], resources: Any, in_this_process: list[str]
) -> None:
    study, folder = parse_study(raw, "test"), Folder.at(raw["out"])
    context = RunContext(study, build_graph(study, folder), resources, Terminal())
    run, trial = context.graph.runs["random"], folder / "search" / "trials" / "x"
    name = f"guards-{context.stage('accuracy', BASE).fingerprint[:12]}"
    tables = {BASE: folder / "search" / name / BASE, "random": trial / name / "random"}
    tables[BASE].write_table("letters.parquet", pa.table({"correct": np.ones(ITEMS)}))
    # 3 of 40 are 7.5 points; all of 20 are far below the margin of 10.
    for wrong, sentences in ((3, 0), (20, 1)):
        tables["random"].write_table("letters.parquet", pa.table({"correct": (np.arange(ITEMS) >= wrong) * 1.0}))
        harmed = harmed_guards(context, run, trial)
        assert len(harmed) == sentences and in_this_process == []
    assert harmed == ["guard letters: -50.0 points, worse than its margin of 10"]


def test_a_search_by_guards_needs_one(raw: dict[str, Any]) -> None:
    assert scored_guards(parse_study(raw, "test")) == ["letters"]
    search = {"space": {"method": ["random"]}, "guards": True}
    with pytest.raises(InputError, match=r"search.guards: the study has no guard with `task` or `test`; give one"):
        search_study(parse_study({**raw, "guards": {}, "search": search}, "test"), Terminal())


def test_a_trial_of_a_search_without_guards_is_not_finished_for_one_with_them(tmp_path: Path) -> None:
    folders = Folder.at(tmp_path / "points"), Folder.at(tmp_path / "trials")
    space = {"method": ["a"]}
    store, guarded = (TrialStore(*folders, Search(space=space, guards=guards)) for guards in (False, True))
    (folders[1] / "x").write_json(OUTCOME, {"tokens": 7, "evaluated": "evaluate/a", "targets": ["sums"]})
    losses = pa.table({"id": ["a", "b"], "loss": [1.0, 2.0]})
    (folders[1] / "x" / "evaluate" / "a").write_table("sums.parquet", losses)
    store.note({"method": "a"}, "x", None)
    assert store.outcomes()[0][1].objective == 1.0 and guarded.outcomes() == [({"method": "a"}, None)]
    # Stopped by this search before its guards were scored: it cannot be the best.
    guarded.note({"method": "a"}, "x", {"failed": None, "objective": 0.5, "tokens": 3, "last": True, "stopped": True})
    assert (guarded.outcomes()[0][1].stopped, guarded.outcomes()[0][1].judged) == (True, {})
    harm = "guard letters: -50.0 points, worse than its margin of 10"
    guarded.note({"method": "a"}, "x", {"failed": harm, "tokens": 7, "epoch": 1, "last": True, "stopped": False})
    outcome = guarded.outcomes()[0][1]
    assert (outcome.failed, outcome.tokens, np.isfinite(outcome.objective)) == (harm, 7, False)


@pytest.mark.long
def test_every_trial_is_scored_on_the_guards_and_the_base_model_once(raw: dict[str, Any]) -> None:
    selection = {"budget": 4, "methods": ["random", "bids"]}
    # No trial can lose more than it has.
    raw["guards"]["letters"]["margin"] = 100
    search = {"space": {"method": ["random", "bids"]}, "searcher": "grid", "trials": 2, "guards": True}
    folder = Path(str(search_study(parse_study({**raw, "selection": selection, "search": search}, "test"), Terminal())))
    assert len(list(folder.glob("guards-*/base/letters.parquet"))) == 1
    assert sorted(path.parent.name for path in folder.glob("trials/*/guards-*/*/letters.parquet")) == ["bids", "random"]
