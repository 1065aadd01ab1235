import re

import numpy as np
import pyarrow as pa
import pytest
from plotly.offline import get_plotlyjs

from instsel.report.facts.order import orders
from instsel.report.facts.record import Record
from instsel.report.page import figures
from instsel.report.page.cost import cost_section
from instsel.report.page.methods import curriculum_section
from instsel.report.page.mixture import mixture_section
from instsel.report.page.overview import headline
from instsel.report.page.reading import ROW_LETTERS, reading_section
from instsel.report.page.search import search_section
from instsel.report.search import search_picture
from instsel.storage import Folder

MIXTURE = {
    "objective": 0.5,
    "start_objective": 0.4,
    "categories": {
        "a_b": {"start": 0.5, "weight": 0.7, "rows": 7, "importance": 1.0, "worth": 0.3, "floor": 0.0, "capacity": 7},
        "c": {"start": 0.5, "weight": 0.3, "rows": 3, "importance": 0.0, "worth": 0.1, "floor": 0.0, "capacity": 9},
    },
    "duals": {"max_shift": 0.2, "sum": 0.1, "lower": {"a_b": 0.0, "c": 0.0}, "upper": {"a_b": 0.5, "c": 0.0}},
}
GAMMA = {"categories": ["a_b", "c"], "gamma": [[1.0, None], [-0.2, 1.0]], "error": [[0.0, None], [0.1, 0.0]]}
TRIAL = {"objective": 1.0, "stopped": False, "failed": None, "pareto": True, "point": {"order": "sorted"}}
TRIALS = [
    {**TRIAL, "name": "second", "tokens": 20},
    {**TRIAL, "name": "first", "tokens": 10, "objective": 2.0},
    {**TRIAL, "name": "other", "tokens": 30, "objective": 3.0, "pareto": False},
    {**TRIAL, "name": "lost", "tokens": 5, "objective": None, "pareto": False, "failed": "diverged"},
]


def kinds(section, kind) -> list:
    return [part for part in section.parts if part.kind == kind]


def test_a_mixture_has_gamma_with_errors_shares_and_duals_in_words_once_for_equal_seeds():
    facts = {
        "interaction": {"gradients": GAMMA},
        "agreement": {},
        "categories": {"a_b": {"rows": 7, "tokens": 70}},
        "mixtures": {"mix-0": MIXTURE, "mix-1": MIXTURE},
    }
    section = mixture_section(facts)
    gamma, shares = kinds(section, "chart")
    assert gamma.traces[0]["text"] == [["1.00", "unknown"], ["-0.20 ± 0.10", "1.00"]]
    assert shares.title == "mix-0, mix-1: shares before and after"
    assert shares.traces[1]["x"] == [0.7, 0.3]
    said = " ".join(line for part in kinds(section, "text") for line in part.lines)
    assert "If the pool had more of a_b, one more percent of it would be worth 0.0050." in said


def test_what_categories_need_is_drawn_and_said():
    levels = {"a_b": "preliminary", "c": "subsequent", "<b>d</b>": "preliminary"}
    dependency = {"levels": levels, "needs": [{"category": "c", "needs": "a_b"}], "cycles": []}
    facts = {"interaction": {"runs": {**GAMMA, "dependency": dependency}}, "agreement": {}, "categories": {}}
    section = mixture_section({**facts, "mixtures": {}})
    _, graph = kinds(section, "chart")
    columns = (graph.traces[0][key] for key in ("text", "x", "y"))
    positions = {name: (x, y) for name, x, y in zip(*columns, strict=True)}
    assert positions == {"a_b": (0, -0.5), "&lt;b&gt;d&lt;/b&gt;": (0, 0.5), "c": (2, 0)}
    (arrow,) = graph.layout["annotations"]
    assert ((arrow["ax"], arrow["ay"]), (arrow["x"], arrow["y"])) == (positions["a_b"], positions["c"])
    said = [line for part in kinds(section, "text") for line in part.lines]
    assert said == ["Levels: preliminary: a_b, <b>d</b>; subsequent: c.", "c needs a_b."]


@pytest.mark.parametrize("name", ["$\\frac{$", "$x$", "<script>alert(1)</script>", "a & b"])
def test_a_name_is_no_formula_and_no_markup(name: str) -> None:
    (trace,) = figures.heatmap("gamma", [name, "b"], [name, "b"], [[1.0, 0.5], [0.25, 1.0]]).traces
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert trace["x"] == trace["y"] == [escaped, "b"]


def test_a_search_has_its_pareto_set_by_tokens_and_its_keys_by_importance():
    section = search_section({"search": {"trials": TRIALS, "importance": {"seed": 0.1, "order": 0.9}}})
    pareto, mattered = kinds(section, "chart")
    assert pareto.traces[0]["x"] == [10, 20] and pareto.traces[1]["x"] == [30]
    assert mattered.traces[0]["y"] == ["order", "seed"]
    assert [row[0].small for row in kinds(section, "table")[0].rows] == ["Pareto", "Pareto", "", "failed"]


def test_the_picture_of_a_search_is_the_same_bytes_and_loads_nothing():
    trials = [{**TRIALS[0], "point": {"method": "</script><script>alert(1)</script>"}}, *TRIALS[1:]]
    picture = search_picture({"trials": trials})
    assert picture == search_picture({"trials": trials})
    page = picture.decode("utf-8")
    assert "<html>" in page[:40] and "tokens trained on" in page
    assert "alert(1)" in page and "<script>alert(1)" not in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page.replace(get_plotlyjs(), ""))


def test_sections_of_what_a_study_lacks_are_left_out():
    assert mixture_section({"interaction": {}}) is None
    assert search_section({"search": {}}) is None
    assert curriculum_section({"orders": {}}) is None


def test_the_shares_of_levels_are_those_of_the_rows_in_their_order(made):
    levels = np.repeat([0, 1, 2, 0], 8)
    folder = Folder.at(made) / "finetune" / "bids"
    folder.write_table("order.parquet", pa.table({"level": levels}))
    found = orders(Record(str(made)))
    assert list(found) == ["bids"]
    assert found["bids"]["rows"] == [8, 16, 24, 32]
    assert found["bids"]["shares"]["preliminary"] == [1.0, 0.0, 0.0, 1.0]
    section = curriculum_section({"orders": {**found, "bids-1": found["bids"]}, "seeds": {"bids": ["bids", "bids-1"]}})
    assert [chart.title for chart in section.parts] == ["bids"]


def test_the_cost_has_tokens_a_second_and_what_was_done_again():
    cost = {"warmup": {"seconds": 2.0, "tokens": 500, "peak_memory_bytes": 2**30, "rows_again": 7}}
    facts = {"cost": cost, "fingerprints": {"warmup": "abc"}, "versions": {"instsel": "1"}, "study_file": "name: x"}
    row = kinds(cost_section(facts), "table")[0].rows[0]
    assert [cell.text for cell in row] == ["warmup", "2.0", "500", "250", "1.00 GiB", "7", "abc"]


@pytest.mark.parametrize(
    ("high", "said"), [(-0.1, "Clearly better on 1 of 1 targets"), (0.1, "Clearly better on 0 of 1 targets")]
)
def test_a_target_is_won_where_the_whole_interval_is_below_zero(high, said):
    difference = {"difference": -0.2, "low": -0.3, "high": high}
    facts = {
        "best": "bids",
        "baseline": "random",
        "losses": {"bids": {"mean": 1.0}},
        "differences": {"bids": {"mean": difference, "sums": difference}},
    }
    assert said in headline(facts)


def test_a_row_of_many_turns_is_cut():
    row = {
        "source": "s",
        "task": None,
        "tokens": 9,
        "helps": {},
        "picks": [{"selection": "bids", "rank": 1, "score": 1.0, "reason": "r"}],
    }
    facts = {"reading": {"best": {}, "rows": {"x": row}}, "selections": {"bids": {}}, "seeds": {}}
    turns = [{"role": "user", "content": "w" * 2000}] * 100
    shown = reading_section(facts, {"x": turns}).parts[0].groups["bids: first picks"][0].turns
    assert sum(len(text) for _, text in shown) < ROW_LETTERS + 2100
    assert shown[-1] == ("…", "97 more turns")
