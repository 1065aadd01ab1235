"""A small cut of the skills benchmark, from the training of its base model to its table."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.skills import run
from benchmarks.skills.arms import ARMS, FORMS, Signals, SignalSettings
from benchmarks.skills.frozen import FROZEN
from benchmarks.skills.model import BaseSettings, TuneSettings, encode, exact_match, load_base
from benchmarks.skills.run import Results, main
from benchmarks.skills.table import paired_interval
from benchmarks.skills.world import WorldSettings, make_world
from instsel.errors import InputError

CUT = replace(
    FROZEN,
    world=WorldSettings(
        skills=("upper", "copy"),
        related={"upper": ("copy",)},
        pool_rows=60,
        shares={"right": 0.5, "wrong": 0.3, "near_copy": 0.1, "useless": 0.1},
        copies=3,
        validation_rows=4,
        test_rows=20,
    ),
    base=BaseSettings(
        hidden=32,
        intermediate=64,
        layers=2,
        heads=2,
        steps=20,
        batch_size=16,
        learning_rate=3e-3,
        trivial=0.1,
        weights={},
        seed=0,
    ),
    signals=SignalSettings(TuneSettings(rank=2, epochs=1, batch_size=4, learning_rate=1e-3), dim=64, damping=0.1),
    tune=TuneSettings(rank=2, epochs=1, batch_size=4, learning_rate=1e-3),
    budget=0.2,
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run of some arms, and the arguments that made it."""
    folder = tmp_path_factory.mktemp("skills")
    arms = ["random", "ideal", "round_robin:cosine", "bids:plain", "longest"]
    arguments = ["--cache", str(folder), "--out", str(folder / "results.parquet"), "--seeds", "1", "--threads", "1"]
    arguments += ["--table", str(folder / "skills.md"), "--world", "near", "--arms", *arms]
    main(arguments, CUT)
    return folder, arguments, arms


@pytest.fixture(scope="module")
def signals(ran):
    folder, _, _ = ran
    base = load_base(CUT.base, CUT.world.skills, folder)
    return Signals(make_world(CUT.world, "near", 0), base, CUT.signals, CUT.rows, 0)


def test_ideal_takes_helpful_rows_only_and_random_as_many_wrong_ones_as_it_drew(ran):
    folder, _, arms = ran
    lines = {line["arm"]: line for line in pq.read_table(folder / "results.parquet").to_pylist()}
    assert set(lines) == {"base", *arms}
    assert lines["ideal"]["recall"] == 1
    assert (lines["ideal"]["right"], lines["ideal"]["wrong"], lines["ideal"]["rows"]) == (1, 0, 12)
    world = make_world(CUT.world, "near", 0)
    from instsel import select

    drawn = select("random", 60, 12, seed=0).indices.tolist()
    assert lines["random"]["wrong"] == sum(world.pool[row].kind == "wrong" for row in drawn) / 12
    assert lines["random"]["recall"] == sum(bool(world.helpful[row]) for row in drawn) / 12


def test_a_second_run_computes_nothing(ran, monkeypatch):
    folder, arguments, _ = ran
    before = (folder / "results.parquet").stat().st_mtime_ns
    monkeypatch.setattr(run, "tune", lambda *_: pytest.fail("an arm was trained again"))
    monkeypatch.setattr("benchmarks.skills.model.train_base", lambda *_: pytest.fail("the base was trained again"))
    main(arguments, CUT)
    assert (folder / "results.parquet").stat().st_mtime_ns == before


def test_a_run_goes_on_where_it_was_killed(ran, tmp_path):
    folder, _, _ = ran
    whole = pq.read_table(folder / "results.parquet")
    pq.write_table(whole.slice(0, 3), tmp_path / "results.parquet")
    base = load_base(CUT.base, CUT.world.skills, folder)
    results = Results(tmp_path / "results.parquet", CUT)
    run.run_arms(results, base, CUT, ["near"], [0], ["random", "ideal", "longest"])
    lines = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [line["arm"] for line in lines] == ["base", "random", "ideal", "longest"]
    expected = {line["arm"]: line["accuracy"] for line in whole.to_pylist()}
    assert lines[-1]["accuracy"] == expected["longest"]


def test_results_of_other_settings_are_refused(ran):
    folder, _, _ = ran
    with pytest.raises(InputError, match="other settings"):
        Results(folder / "results.parquet", replace(CUT, budget=0.3))


def test_the_table_has_a_line_an_arm(ran):
    folder, _, arms = ran
    page = (folder / "skills.md").read_text()
    for arm in ["base", *arms]:
        assert f"| {arm} | 1 |" in page


@pytest.mark.filterwarnings("ignore:g2is")
@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_takes_the_budget(signals, arm):
    rows = ARMS[arm](signals)
    assert len(set(rows.tolist())) == len(rows) == CUT.rows


def test_forms_of_influence_differ(signals):
    values = {form: signals.influence(form) for form in FORMS}
    assert all(value.shape == (60, 4) and np.isfinite(value).all() for value in values.values())
    assert not any(np.allclose(values["cosine"], values[form]) for form in FORMS if form != "cosine")


def test_exact_match_is_that_of_greedy_decoding(signals):
    model, _ = signals.warm()
    examples = [encode(row) for row in signals.world.test]
    # Of answers that the model gives, so that some are right; a prompt ends where the labels start.
    prompts = [[t for t, label in zip(e["input_ids"], e["labels"], strict=True) if label == -100] for e in examples]
    decoded = []
    for prompt, example in zip(prompts, examples, strict=True):
        ids = list(prompt)
        while len(ids) < len(example["input_ids"]):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        decoded.append(ids)
    own = [
        {"input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :]}
        for ids, prompt in zip(decoded, prompts, strict=True)
    ]
    assert exact_match(model, own).all()
    assert exact_match(model, examples).tolist() == [
        ids == example["input_ids"] for ids, example in zip(decoded, examples, strict=True)
    ]


def test_the_interval_is_that_of_students_t():
    mean, low, high = paired_interval(np.array([0.3, 0.5, 0.4]), np.array([0.1, 0.2, 0.0]))
    # Differences .2, .3, .4: deviation .1, and t of 2 degrees of freedom at 97.5 % is 4.3027.
    assert mean == pytest.approx(0.3)
    assert (low, high) == (pytest.approx(0.3 - 0.24841, abs=1e-4), pytest.approx(0.3 + 0.24841, abs=1e-4))
