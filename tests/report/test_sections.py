import re

import numpy as np
import pyarrow as pa
import pytest
from plotly.offline import get_plotlyjs

from instsel.io.store import Folder
from instsel.report.collect import training_orders
from instsel.report.facts import SearchFacts, StudyFacts
from instsel.report.html import search_page
from instsel.report.page.results import MOST_ROW_LETTERS, cost_section, reading_section, search_section
from instsel.report.page.selections import mixture_section, orders_section
from instsel.report.record import StudyRecord

NOTHING = {
    "study": "s",
    "path": "runs/s",
    "model": "m",
    "dtype": "float32",
    "budget": 4,
    "unit": "rows",
    "baseline": "random",
    "confidence": 0.95,
    "provenance": {"versions": {}, "fingerprint": None, "stages": {}, "study_file": "name: x"},
}
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
GAMMA |= {"self_effect": [1.0, 1.0], "self_effect_error": [0.1, 0.1], "unknown": []}


def facts_with(**values) -> StudyFacts:
    return StudyFacts.model_validate({**NOTHING, **values})


def kinds(section, kind) -> list:
    return [part for part in section.parts if part.kind == kind]


def test_a_mixture_has_gamma_with_errors_shares_and_duals_in_words_once_for_equal_seeds():
    mixtures = {"mix-0": MIXTURE, "mix-1": MIXTURE}
    categories = {"a_b": {"rows": 7, "tokens": 70}}
    section = mixture_section(facts_with(interaction={"gradients": GAMMA}, categories=categories, mixtures=mixtures))
    gamma, shares = kinds(section, "chart")
    assert gamma.traces[0]["text"] == [["1.00", "unknown"], ["-0.20 ± 0.10", "1.00"]]
    assert shares.title == "mix-0, mix-1: shares before and after"
    assert shares.traces[1]["x"] == [0.7, 0.3]
    text = " ".join(line for part in kinds(section, "text") for line in part.lines)
    assert "If the pool had more of a_b, one more percent of it would be worth 0.0050." in text


def test_a_search_has_its_pareto_set_by_tokens_and_its_keys_by_importance():
    trial = {"objective": 1.0, "stopped": False, "failed": None, "pareto": True, "point": {"order": "sorted"}}
    trials = [
        {**trial, "name": "second", "tokens": 20},
        {**trial, "name": "first", "tokens": 10, "objective": 2.0},
        {**trial, "name": "other", "tokens": 30, "objective": 3.0, "pareto": False},
        {**trial, "name": "lost", "tokens": 5, "objective": None, "pareto": False, "failed": "diverged"},
    ]
    section = search_section(facts_with(search={"trials": trials, "importance": {"seed": 0.1, "order": 0.9}}))
    pareto, mattered = kinds(section, "chart")
    assert pareto.traces[0]["x"] == [10, 20] and pareto.traces[1]["x"] == [30]
    assert mattered.traces[0]["y"] == ["order", "seed"]
    assert [row[0].small for row in kinds(section, "table")[0].rows] == ["Pareto", "Pareto", "", "failed"]


def test_the_page_of_a_search_is_the_same_bytes_and_loads_nothing():
    trial = {"name": "first", "tokens": 10, "objective": 1.0, "pareto": True}
    trials = [{**trial, "point": {"method": "</script><script>alert(1)</script>"}}]
    page = search_page(SearchFacts.model_validate({"trials": trials}))
    assert page == search_page(SearchFacts.model_validate({"trials": trials}))
    text = page.decode("utf-8")
    assert "<html>" in text[:40] and "tokens trained on" in text
    assert "alert(1)" in text and "<script>alert(1)" not in text
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", text.replace(get_plotlyjs(), ""))


def test_sections_of_what_a_study_lacks_are_left_out():
    for section_of in (mixture_section, search_section, orders_section):
        assert section_of(facts_with()) is None


def test_the_shares_of_levels_are_those_of_the_rows_in_their_order(study_folder):
    levels = np.repeat([0, 1, 2, 0], 8)
    folder = Folder.at(study_folder) / "finetune" / "bids"
    folder.write_table("order.parquet", pa.table({"level": levels}))
    orders = training_orders(StudyRecord(str(study_folder)))
    assert list(orders) == ["bids"]
    assert orders["bids"].rows == [8, 16, 24, 32]
    assert orders["bids"].shares["preliminary"] == [1.0, 0.0, 0.0, 1.0]
    orders["bids-1"] = orders["bids"]
    section = orders_section(facts_with(orders=orders, runs={"bids": ["bids", "bids-1"]}))
    assert [chart.title for chart in section.parts] == ["bids"]


def test_the_cost_has_tokens_a_second_and_what_was_done_again():
    cost = {"warmup": {"seconds": 2.0, "tokens": 500, "peak_memory_bytes": 2**30, "rows_reprocessed": 7}}
    provenance = {**NOTHING["provenance"], "stages": {"warmup": "abc"}}
    row = kinds(cost_section(facts_with(cost=cost, provenance=provenance)), "table")[0].rows[0]
    assert [cell.text for cell in row] == ["warmup", "2.0", "500", "250", "1.00 GiB", "7", "abc"]


def test_a_row_of_many_turns_is_cut():
    row = {
        "source": "s",
        "task": None,
        "tokens": 9,
        "shard": "0-0",
        "helps": {},
        "picks": [{"selection": "bids", "rank": 1, "score": 1.0, "reason": "r"}],
    }
    selections = {"bids": {"rows": 1, "tokens": 9}}
    facts = facts_with(reading={"best": {}, "rows": {"x": row}}, selections=selections)
    turns = [{"role": "user", "content": "w" * 2000}] * 100
    shown = reading_section(facts, {"x": turns}).parts[0].groups["bids: first picks"][0].turns
    assert sum(len(text) for _, text in shown) < MOST_ROW_LETTERS + 2100
    assert shown[-1] == ("…", "97 more turns")


def test_an_arrow_goes_from_a_category_to_those_that_need_it():
    dependency = {
        "levels": {"a_b": "preliminary", "c": "subsequent"},
        "needs": [{"category": "c", "needs": "a_b"}],
        "cycles": [],
        "strength": [[0.0, 0.5], [0.0, 0.0]],
        "error": [[0.0, 0.1], [0.1, 0.0]],
    }
    section = mixture_section(facts_with(interaction={"interventions": {**GAMMA, "dependency": dependency}}))
    graph = kinds(section, "chart")[1]
    (arrow,) = graph.layout["annotations"]
    points = dict(
        zip(graph.traces[0]["text"], zip(graph.traces[0]["x"], graph.traces[0]["y"], strict=True), strict=True)
    )
    assert (arrow["ax"], arrow["ay"]) == points["a_b"] and (arrow["x"], arrow["y"]) == points["c"]
    assert kinds(section, "text")[0].lines == ["Levels: preliminary: a_b; subsequent: c.", "c needs a_b."]


@pytest.mark.parametrize("name", ["$\\frac{$", "$x$", "<script>alert(1)</script>", "a & b"])
def test_a_name_of_a_category_is_no_markup_in_a_chart(name):
    levels = {name: "preliminary"}
    dependency = {"levels": levels, "needs": [], "cycles": [], "strength": [[0.0]], "error": [[0.0]]}
    gamma = {**GAMMA, "categories": [name], "gamma": [[1.0]], "error": [[0.1]], "dependency": dependency}
    heatmap, graph = kinds(mixture_section(facts_with(interaction={"interventions": gamma})), "chart")
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert heatmap.traces[0]["x"] == heatmap.traces[0]["y"] == graph.traces[0]["text"] == [escaped]
