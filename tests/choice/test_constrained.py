"""The linear program of a selection, on effects given by hand."""

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from instsel.choice.budget import Budget
from instsel.choice.constrained import mix, mixture_table
from instsel.choice.picks import PickRequest, make_picks
from instsel.config.mixture import Mixture
from instsel.errors import InputError
from instsel.selection import bids
from instsel.selection.method_data import MethodData
from instsel.selection.registry import AnyMethod
from instsel.study.results import InteractionResult
from tests.studies import small_manifest

NAN = float("nan")


class Effects:
    """Stands for a study whose estimator gave these."""

    def __init__(self, gamma, on_itself):
        self.result = InteractionResult(
            categories=["few", "many"],
            gamma=gamma,
            error=[[0.1, 0.1], [0.1, 0.1]],
            self_effect=on_itself,
            self_effect_error=[0.1, 0.1],
            unknown=[],
        )

    def interaction(self, estimator):
        return self.result


def _mixed(gamma, on_itself, labels=("few", "many"), **settings):
    mixture = Mixture(importance="equal", max_shift=0.25, **settings)
    return mix(mixture, Effects(gamma, on_itself), dict.fromkeys(labels, 20), dict.fromkeys(labels, 1), 8)


def test_in_rows_of_each_category_a_large_loss_counts_as_a_small_one():
    solved = _mixed([[1, -0.1], [-0.6, 1]], [0.01, 1.0])
    # A row of the first is worth (1 - 0.1) / 2, one of the second (1 - 0.6) / 2.
    assert solved.solution.worth == pytest.approx([0.45, 0.2])
    assert solved.rows.tolist() == [6, 2]


def test_in_nats_the_category_whose_loss_moves_more_counts_more():
    solved = _mixed([[1, -0.1], [-0.6, 1]], [0.01, 1.0], effects_in="nats")
    # In loss: (0.01 - 0.1 x 1) / 2 and (1 - 0.6 x 0.01) / 2, and a row of the mean category (0.01 + 1) / 2.
    assert solved.solution.worth == pytest.approx([-0.045 / 0.505, 0.497 / 0.505])
    assert solved.rows.tolist() == [2, 6]


def test_in_nats_what_is_not_known_of_still_has_no_effect():
    solved = _mixed([[1, -0.1], [-0.6, 1]], [0.01, 1.0], labels=("few", "many", "other"), effects_in="nats")
    assert solved.solution.worth[2] == 0
    assert solved.solution.weights[2] == pytest.approx(1 / 3)


def test_unknown_effects_that_count_are_refused_in_nats_too():
    with pytest.raises(InputError, match="gamma is unknown for few"):
        _mixed([[1, -0.1], [NAN, 1]], [0.001, 1.0], effects_in="nats")
    taken_for_none = _mixed([[1, -0.1], [NAN, 1]], [0.0, 1.0], effects_in="nats", unknown="zero")
    assert taken_for_none.solution.worth == pytest.approx([-0.1, 1])


def test_where_no_rows_help_their_own_category_nats_are_refused():
    with pytest.raises(InputError, match="mixture.effects_in: no category that importance counts is helped"):
        _mixed([[1, 0], [0, 1]], [-0.1, 0.0], effects_in="nats")


def test_shares_keep_every_category_with_its_numbers_and_the_duals_of_its_bounds():
    solved = _mixed([[1, -0.1], [-0.6, 1]], [0.01, 1.0], floors={"many": 0.2})
    shares = solved.shares()
    assert list(shares.categories) == ["few", "many"]
    few = shares.categories["few"]
    assert (few.start, few.rows, few.capacity, few.floor) == (0.5, 6, 20, 0.0)
    assert few.weight == pytest.approx(0.75) and few.worth == pytest.approx(0.45)
    assert shares.objective > shares.start_objective
    table = mixture_table(shares)
    assert table.column_names[0] == "category" and table["floor"].to_pylist() == [0.0, 0.2]
    assert table["lower_dual"].to_pylist() == list(shares.duals.lower.values())


POOL = [("web", f"prompt {row}", 3 + row % 4) for row in range(24)]
CATEGORIES = [["few", "many", "many", "other"][row % 4] for row in range(24)]


@pytest.fixture
def mixed(small_pool):
    """A pool of 24 rows in three categories, with influence and interactions."""
    influence = np.random.default_rng(3).normal(size=(24, 3)).astype(np.float32)
    reader = small_pool(POOL, {"t": ["prompt 1", "prompt 5 of", "prompt 9"]}, influence)
    order = np.random.default_rng(1).permutation(24).tolist()
    table = pa.table({"id": [f"row{row}" for row in order], "category": [CATEGORIES[row] for row in order]})
    (reader.study / "categorize").write_table("categories.parquet", table)
    (reader.study / "categorize").write_json("manifest.json", small_manifest("categorize", {}))
    result = Effects([[1, -0.1], [-0.6, 1]], [0.1, 0.1]).result
    manifest = small_manifest("interaction/gradients", result.model_dump(mode="json"))
    (reader.study / "interaction/gradients").write_json("manifest.json", manifest)
    return reader, influence


@pytest.mark.parametrize("start", ["pool", "choice"])
@pytest.mark.parametrize(
    ("method", "budget", "unit"), [("bids", 9, "rows"), ("less", 40, "tokens"), ("bm25", 9, "rows")]
)
def test_each_category_chooses_as_if_it_were_the_whole_pool(start, method, budget, unit, mixed, say):
    reader, influence = mixed
    mixture = Mixture(importance="equal", max_shift=0.25, estimator="gradients")
    entry = TypeAdapter(AnyMethod).validate_python({"method": method, "mixture": start})
    request = PickRequest(entry, 0, Budget(budget, unit), "cosine", 0.1, mixture)
    picks = make_picks(request, reader, say)
    rows = [int(row.removeprefix("row")) for row in picks.table["id"].to_pylist()]
    assert len(set(rows)) == len(rows) > 0
    if unit == "tokens":
        assert sum(POOL[row][2] for row in rows) <= budget
    shares = picks.mixture.categories
    for name, share in shares.items():
        members = [row for row in range(24) if CATEGORIES[row] == name]
        chosen = [row for row in rows if CATEGORIES[row] == name]
        assert (len(chosen), share.capacity) == (share.rows, len(members))
        if method == "bids":
            alone = bids.select(influence[members], len(chosen)).indices
            assert chosen == [members[row] for row in alone]
    reasons = zip(rows, picks.table["reason"].to_pylist(), strict=True)
    assert all(reason.startswith(f"{CATEGORIES[row]}: ") for row, reason in reasons)


def test_fault_18_a_budget_of_tokens_lays_the_rows_out_once(mixed, say, monkeypatch):
    laid = []
    taken = MethodData._taken
    monkeypatch.setattr(MethodData, "_taken", lambda data, rows: laid.append(len(rows)) or taken(data, rows))
    entry = TypeAdapter(AnyMethod).validate_python({"method": "less", "mixture": "pool"})
    mixture = Mixture(importance="equal", max_shift=0.25, estimator="gradients")
    make_picks(PickRequest(entry, 0, Budget(40, "tokens"), "cosine", 0.1, mixture), mixed[0], say)
    assert laid == [24]
