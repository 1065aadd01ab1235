"""Which stages go with one another."""

from instsel.api.study import outdated, stage_table


def manifest(fingerprint, **parents):
    cost = {"seconds": 1.5, "tokens": 3, "peak_memory_bytes": 7, "rows_reprocessed": 0}
    return {"fingerprint": fingerprint, "code_version": "0.2.0", "parents": parents, "cost": cost}


def test_what_comes_after_a_changed_stage_is_outdated():
    current = {
        "prepare": manifest("p2"),
        "warmup": manifest("w", prepare="p1"),
        "features": manifest("f", warmup="w"),
        "embed": manifest("e", prepare="p2"),
    }
    assert outdated(current, {}) == ["warmup", "features"]


def test_a_parent_that_is_gone_or_not_finished_is_another_parent():
    current = {"prepare": None, "warmup": manifest("w", prepare="p"), "select/bids": manifest("s", features="f")}
    assert outdated(current, {}) == ["warmup", "select/bids"]


def test_a_parent_may_be_of_an_earlier_study_file():
    current = {"finetune/a": manifest("x", **{"interaction/gradients": "g"})}
    assert outdated(current, {"interaction/gradients": manifest("g")}) == []
    assert outdated(current, {"interaction/gradients": manifest("h")}) == ["finetune/a"]


def test_bug_stages_of_another_study_file_were_current():
    current = {"prepare": manifest("p"), "warmup": manifest("w", prepare="p"), "features": manifest("f", warmup="w")}
    assert outdated(current, {}, stale=["warmup"]) == ["warmup", "features"]


def test_the_table_has_the_cost_of_each_stage_and_whether_it_is_done():
    current = {"prepare": manifest("p"), "warmup": None, "features": manifest("f", warmup="w")}
    lines = stage_table(current, {}).to_pylist()
    assert [(line["stage"], line["done"], line["current"]) for line in lines] == [
        ("prepare", True, True),
        ("warmup", False, False),
        ("features", True, False),
    ]
    costs = {"seconds": 1.5, "tokens": 3, "peak_memory_bytes": 7, "rows_reprocessed": 0, "version": "0.2.0"}
    assert {key: lines[0][key] for key in costs} == costs
    assert {lines[1][key] for key in costs} == {None}
