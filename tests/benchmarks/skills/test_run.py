"""A small cut of the skills benchmark, from the training of its base model to its tables."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.skills import run
from benchmarks.skills.arms import ARMS, NAMES, is_method, method_of
from benchmarks.skills.frozen import FROZEN
from benchmarks.skills.ledger import Ledger, read_results, read_settings
from benchmarks.skills.model import BaseSettings, TuneSettings, encode, exact_match, load_base
from benchmarks.skills.run import EVIDENCE, Trial, main
from benchmarks.skills.separation import FILE, separation_table
from benchmarks.skills.signals import FORMS, Signals, SignalSettings
from benchmarks.skills.table import complete, world_table, write_table
from benchmarks.skills.world import WorldSettings, make_world
from instsel import select
from instsel.errors import InputError
from instsel.selection.registry import REGISTRY

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
SOME = ["base", "validation_only", "random", "ideal", "named", "round_robin:cosine", "bids:plain", "longest"]
MARKS = "# Cut\n\n<!-- near -->\nformer table\n<!-- end -->\n\n<!-- seconds -->\n<!-- end -->\n\n<!-- end -->\n"


def arguments(folder, *arms):
    """Arguments of a run of some arms in one process; the base model is where the others have it."""
    given = ["run", "--work", str(folder / "work"), "--evidence", str(folder / "evidence"), "--seeds", "2"]
    return [*given, "--processes", "1", "--worlds", "near", "--arms", *(arms or SOME)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skills")
    main(arguments(folder), CUT)
    return folder


@pytest.fixture
def fresh(ran, tmp_path):
    """A folder with the base model and nothing else."""
    (tmp_path / "work").mkdir()
    for model in (ran / "work").glob("base-*"):
        (tmp_path / "work" / model.name).symlink_to(model)
    return tmp_path


@pytest.fixture(scope="module")
def signals(ran):
    base = load_base(CUT.base, CUT.world.skills, ran / "work")
    return Signals(make_world(CUT.world, "near", 0), base, CUT.signals, CUT.rows, 0)


def test_shares_are_those_of_the_rows_taken(ran):
    lines = {(line["arm"], line["seed"]): line for line in read_results(ran / "evidence")}
    assert set(lines) == {(arm, seed) for arm in SOME for seed in (0, 1)}
    ideal, random = lines["ideal", 1], lines["random", 1]
    assert (ideal["recall"], ideal["of_good_skill"], ideal["correct"].count(True) / 20) == (1, 1, ideal["accuracy"])
    assert (ideal["wrong"], ideal["near_copy"], ideal["useless"], len(ideal["rows"])) == (0, 0, 0, 12)
    world = make_world(CUT.world, "near", 1)
    drawn = sorted(select("random", 60, 12, seed=1).indices.tolist())
    assert random["rows"] == drawn
    assert random["wrong"] == sum(world.pool[row].kind == "wrong" for row in drawn) / 12
    assert random["of_good_skill"] == sum(world.pool[row].skill == "upper" for row in drawn) / 12
    helpful = [row for row, each in enumerate(world.pool) if each.skill == "upper" and each.kind == "right"]
    assert random["recall"] == len(set(drawn) & set(helpful)) / 12
    assert all(world.pool[row].skill == "upper" for row in lines["named", 1]["rows"])
    assert {lines["named", seed]["wrong"] > 0 for seed in (0, 1)} == {True}
    for arm in ("base", "validation_only"):
        assert (lines[arm, 0]["rows"], lines[arm, 0]["recall"], lines[arm, 0]["wrong"]) == ([], None, None)


def test_a_second_run_computes_nothing_and_writes_the_same_bytes(ran, monkeypatch):
    before = {path.name: path.read_bytes() for path in (ran / "evidence").iterdir()}
    monkeypatch.setattr(run, "tune", lambda *_: pytest.fail("an arm was trained again"))
    monkeypatch.setattr("benchmarks.skills.model.train_base", lambda *_: pytest.fail("the base was trained again"))
    main(arguments(ran), CUT)
    assert {path.name: path.read_bytes() for path in (ran / "evidence").iterdir()} == before


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(ran, fresh, monkeypatch):
    whole, calls = run.tune, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(run, "tune", killed)
    with pytest.raises(KeyboardInterrupt):
        main(arguments(fresh), CUT)
    # What a process leaves that is killed as it writes.
    parts = next((fresh / "work").glob("arms-*/near-1"))
    (parts / ".longest.json.1").write_text('{"line": {')
    main(arguments(fresh), CUT)
    # Seven arms of each seed are trained, base is not; the one that was killed a second time.
    assert len(calls) == 2 * 7 + 1
    for name in ("settings.json", "results.parquet"):
        assert (fresh / "evidence" / name).read_bytes() == (ran / "evidence" / name).read_bytes()


def test_arms_that_are_added_later_join_the_evidence_without_training_the_others_again(ran, fresh, monkeypatch):
    main(arguments(fresh, "longest", "random"), CUT)
    for path in (fresh / "work").glob("arms-*"):
        path.rename(fresh / "elsewhere")
    whole, calls = run.tune, []
    monkeypatch.setattr(run, "tune", lambda *given: calls.append(1) or whole(*given))
    main(arguments(fresh), CUT)
    assert len(calls) == 2 * 5
    assert (fresh / "evidence" / "results.parquet").read_bytes() == (ran / "evidence" / "results.parquet").read_bytes()


def test_arms_of_seeds_that_are_not_asked_for_are_left_out_of_the_evidence(ran, fresh):
    parts = next((ran / "work").glob("arms-*"))
    (fresh / "work" / parts.name).symlink_to(parts)
    given = arguments(fresh)
    given[given.index("--seeds") + 1] = "1"
    main(given, CUT)
    assert {line["seed"] for line in read_results(fresh / "evidence")} == {0}


def test_the_order_in_which_arms_are_run_changes_nothing(ran, fresh):
    base = load_base(CUT.base, CUT.world.skills, fresh / "work")
    alone, _ = Trial(base, CUT, "near", 1).run("bids:plain")
    line = next(line for line in read_results(ran / "evidence") if (line["arm"], line["seed"]) == ("bids:plain", 1))
    assert (alone["rows"], alone["correct"]) == (line["rows"], line["correct"])


@pytest.mark.parametrize("key", ["digest", "base"])
def test_evidence_of_other_settings_or_another_base_is_refused(ran, fresh, key):
    evidence = fresh / "evidence"
    evidence.mkdir()
    (evidence / "settings.json").write_text(json.dumps(read_settings(ran / "evidence") | {key: "0" * 16}))
    base = load_base(CUT.base, CUT.world.skills, fresh / "work")
    with pytest.raises(InputError, match="another (settings|base model).*0000.*name another folder"):
        Ledger(evidence, fresh / "work", CUT, base)


def test_the_tables_are_put_between_their_marks(ran, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(MARKS)
    write_table(ran / "evidence", readme)
    page = readme.read_text()
    assert "former table" not in page
    assert page.startswith("# Cut\n\n<!-- near -->\n\n| arm |")
    for arm in SOME:
        assert f"| {arm} |" in page
    assert "CPU minutes" in page
    write_table(ran / "evidence", readme)
    assert readme.read_text() == page
    readme.write_text("no marks")
    with pytest.raises(InputError, match="marks <!-- near -->"):
        write_table(ran / "evidence", readme)


def test_the_table_compares_an_arm_with_random_on_the_same_seeds():
    def lines(accuracies):
        shares = dict.fromkeys(("recall", "of_good_skill", "wrong", "near_copy", "useless"), 0.25)
        return [{"accuracy": value, "correct": [value == 1] * 4, **shares} for value in accuracies]

    varied = [0.0, 1.0] * 10
    table = world_table(
        {"random": lines(varied), "longest": lines(varied), "bids:cosine": lines([1.0] * 20)}, ["a", "b"]
    )
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:5]]
    assert [row[:2] for row in rows] == [["bids:cosine", "1.000"], ["longest", "0.500"], ["random", "0.500"]]
    assert rows[0][2].startswith("+0.500 [+0.")
    assert rows[1][2:4] == ["+0.000 [+0.000, +0.000]", "1.000"]
    assert rows[2][2:4] == ["–", "–"]
    assert rows[0][4:] == ["1.00", "1.00", *["0.25"] * 5]
    assert "not told apart from the best of them: bids:cosine.\n" in table


def test_separations_are_shares_of_pairs_in_order(ran, fresh, signals):
    (fresh / "evidence").mkdir()
    main(["separation", *arguments(fresh)[1:5], "--seeds", "1", "--worlds", "near"], CUT)
    found = {line["form"]: line for line in pq.read_table(fresh / "evidence" / FILE).to_pylist()}
    assert set(found) == set(FORMS)
    world, score = signals.world, signals.influence("cosine").mean(axis=1)
    right, wrong = score[world.of_kind("right")], score[world.of_kind("wrong")]
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    assert found["cosine"]["all_answers"] == pytest.approx(np.mean(pairs))
    assert "| near | cosine |" in separation_table(fresh / "evidence").replace("  ", " ")


def test_an_arm_that_lacks_a_seed_is_named():
    lines = [{"world": "near", "arm": arm, "seed": seed} for arm in ("random", "ideal") for seed in (0, 1)]
    assert list(complete(lines, "near")) == ["random", "ideal"]
    with pytest.raises(InputError, match=r"near, ideal: has seeds \[0\]"):
        complete(lines[:-1], "near")
    with pytest.raises(InputError, match="no results of random"):
        complete(lines[2:], "near")


@pytest.mark.filterwarnings("ignore:g2is")
@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_takes_the_budget(signals, arm):
    rows = ARMS[arm](signals)
    assert len(set(rows.tolist())) == len(rows) == CUT.rows


def test_every_method_of_the_product_is_an_arm():
    builtin = {name for name, method in REGISTRY.methods.items() if method.__module__.startswith("instsel.")}
    # The only word that prompts share here is the name of a skill: far, bm25 has nothing to go by and says so.
    without_arm = {"bm25", "full_pool", "validation_only"}
    assert {method_of(arm) for arm in NAMES if is_method(arm) or arm == "random"} == builtin - without_arm


def test_forms_of_influence_differ(signals):
    values = {form: signals.influence(form) for form in FORMS}
    assert all(value.shape == (60, 4) and np.isfinite(value).all() for value in values.values())
    assert not any(np.allclose(values["cosine"], values[form]) for form in FORMS if form != "cosine")


def test_answers_to_contrast_start_with_the_right_one_and_others_differ_from_it(signals):
    examples, items = signals._answers()
    for index, row in enumerate(signals.world.validation):
        own = [example for example, item in zip(examples, items, strict=True) if item == index]
        answers = ["".join(map(str, example["input_ids"][len(row.text) + 2 :])) for example in own]
        right = encode(row)["input_ids"][len(row.text) + 2 : -1]
        assert answers[0] == "".join(map(str, right))
        # Four validation rows, and so three other answers.
        assert len(set(answers)) == len(answers) == 4


def test_the_kernels_products_are_the_influence(signals):
    for form in ("cosine", "fisher"):
        pool, validation = signals.kernel(form == "fisher")
        np.testing.assert_allclose(pool @ validation.T, signals.influence(form), rtol=1e-3, atol=1e-4)


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


def test_the_evidence_is_of_the_frozen_settings_and_every_arm_has_the_same_seeds():
    assert read_settings(EVIDENCE)["digest"] == FROZEN.digest
    lines = read_results(EVIDENCE)
    seeds = {
        (world, arm): [line["seed"] for line in of_arm]
        for world in ("near", "far")
        for arm, of_arm in complete(lines, world).items()
    }
    assert set(seeds) == {(world, arm) for world in ("near", "far") for arm in NAMES}
    count = len(seeds["near", "random"])
    assert count == 20
    assert all(own == list(range(count)) for own in seeds.values())
