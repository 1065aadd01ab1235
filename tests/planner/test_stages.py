"""Rows, tokens, batches, time, memory and disk of the stages, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from instsel.config.file import parse_study
from instsel.planner.facts import Facts, Fisher, Throughput
from instsel.planner.influence import attribution_memory, fisher_memory
from instsel.planner.rows import RowSet
from instsel.planner.stages import feature_bytes, plan_stages
from instsel.selection.base import AttributionSpec

KEYS = {
    "name": "s",
    "out": "nowhere",
    "model": {"name": "m"},
    "pool": [{"path": "p.jsonl"}],
    "targets": {"t": {"validation": "v.jsonl", "heldout": "h.jsonl"}},
    "selection": {"budget": 0.1, "methods": ["random", "less", "bids"]},
    "warmup": {"share": 0.1, "epochs": 3, "batch_size": 10},
    "finetune": {"epochs": 2, "batch_size": 40},
    "features": {"dim": 100, "token_budget": 100},
    "evaluation": {"token_budget": 40},
}
EVERYTHING = {
    "prepare": ["prepare"],
    "embed": ["embed"],
    "hidden_states": ["hidden_states"],
    "likelihood": ["likelihood"],
    "warmup": ["warmup"],
    "features": ["features"],
    "attribution": ["cosine"],
    "select": ["random", "less", "bids"],
    "finetune": ["random", "less", "bids"],
    "evaluate": ["base", "random", "less", "bids"],
}
PACES = {
    "warmup": Throughput(5.0, 100.0, memory=10**9, processes=2, together=2),
    "finetune": Throughput(6.0, 50.0, memory=10**9, processes=2, together=2),
    "features": Throughput(7.0, 200.0, memory=2 * 10**9, processes=4, together=2),
    "evaluate": Throughput(8.0, 400.0, memory=10**9, processes=4, together=2),
    "embed": Throughput(2.0, 1000.0, memory=10**8, processes=2, together=2, width=48),
    "hidden_states": Throughput(3.0, 800.0, memory=10**9, processes=2, together=2, width=64),
    "likelihood": Throughput(4.0, 400.0, memory=10**9, processes=2, together=2),
    "attribution/cosine": Throughput(1.0, 600.0, memory=10**8, processes=8, together=4),
    "attribution/fisher-0.1": Throughput(1.0, 600.0, memory=10**8, processes=8, together=4),
    "attribution/cosine-subtasks": Throughput(1.0, 1200.0, memory=10**8, processes=8, together=4),
    "select/random": Throughput(0.0, 1000.0, memory=10**8),
    "select/less": Throughput(1.0, 1000.0, memory=2 * 10**8, scratch=500),
    "select/bids": Throughput(3.0, 1000.0, memory=10**8, scratch=400),
}
INFLUENCES = {
    "cosine": AttributionSpec("cosine", None),
    "fisher-0.1": AttributionSpec("fisher", 0.1),
    "cosine-subtasks": AttributionSpec("cosine", None, "gradients"),
}
FISHER = Fisher(Throughput(2.0, 100.0, memory=10**8, processes=8, together=4), groups=5, solve=7.0)


def rows(count, length, shards=1):
    """A quarter of the tokens are answers."""
    return RowSet(count, shards, np.full(count, length), np.full(count, length // 4))


def study(**changes):
    return parse_study({**KEYS, **changes}, "test")


def facts(**changes):
    """1,000 pool rows of 20 tokens in 5 shards, 50 validation rows of 20 and 10 held-out rows of 10."""
    known = {
        "pool": [rows(600, 20, shards=3), rows(400, 20, shards=2)],
        "validation": [rows(50, 20)],
        "heldout": [rows(10, 10)],
        "todo": EVERYTHING,
        "chosen": 100,
        "subtasks": 2,
        "influences": INFLUENCES,
        "fisher": FISHER,
        "prepare_seconds": 12.0,
        "prepare_bytes": 345,
        "prepare_memory": 678,
        "checkpoint_bytes": 1000,
        "chosen_bytes": 50.0,
        "paces": PACES,
    }
    return Facts(**{**known, **changes})


def stages(**changes):
    return {stage.name: stage for stage in plan_stages(study(), facts(**changes))}


def test_prepare_has_every_row_once():
    found = stages()["prepare"]
    assert (found.rows, found.tokens, found.batches) == (1060, 21_100, None)
    assert (found.seconds, found.disk, found.memory) == (12.0, 345, 678)


def test_warmup_trains_on_its_share_and_keeps_a_checkpoint_an_epoch():
    found = stages()["warmup"]
    assert (found.rows, found.tokens, found.batches) == (300, 6000, 30)
    assert found.seconds == 5.0 + 6000 / (2 * 100.0)
    assert found.disk == 3 * 1000 + 100 * (20 + 20 * 8)
    assert (found.memory, found.together) == (10**9, 2)


def test_features_take_pool_and_validation_rows_at_every_checkpoint():
    found = stages()["features"]
    # 5 rows a batch of 100 tokens: 40 batches a shard of 200 rows, 10 for the validation rows.
    assert (found.rows, found.tokens, found.batches) == (3 * 1050, 3 * 21_000, 3 * (5 * 40 + 10))
    assert found.seconds == 7.0 + 3 * 21_000 / (4 * 200.0)
    assert found.disk == 3 * (1050 * (204 + 20) + 6 * 2400)
    assert found.memory == 2 * 10**9 + 200 * 100 * 20


def test_fewer_shards_than_actors_keep_fewer_actors_busy():
    few = facts(pool=[rows(1000, 20)], validation=[rows(50, 20)], todo={"features": ["features"]})
    found = plan_stages(study(warmup={"share": 0.1, "epochs": 1}), few)[0]
    assert found.seconds == 7.0 + 21_000 / (2 * 200.0)


def test_a_checkpoint_of_270679_rows_of_8192_float16_is_4_4_gb():
    assert feature_bytes(study(features={}), 270_679, 271) == pytest.approx(4.44e9, rel=1e-2)
    assert 270_679 * 2 * 8192 == 4_434_804_736


def test_int8_features_take_half_the_disk():
    halved = feature_bytes(study(features={"storage": "int8"}), 270_679, 271)
    assert halved == pytest.approx(2.22e9, rel=1e-2)


def test_attribution_scores_every_row_at_every_checkpoint():
    found = stages()["attribution"]
    assert found.rows == 3000
    # Eight processes and five shards.
    assert found.seconds == 1.0 + 3000 / (5 * 600.0)
    assert found.disk == 1000 * (20 + 4 * 50) + 5 * 800
    assert found.memory == 10**8 + attribution_memory(3, 200, 50, 100, "float16")


def test_every_way_of_influence_is_scored_and_stored():
    found = stages(todo={"attribution": ["cosine", "cosine-subtasks"]})["attribution"]
    assert found.rows == 2 * 3000
    assert found.seconds == 1.0 + 3000 / (5 * 600.0) + 1.0 + 3000 / (5 * 1200.0)
    # 50 validation rows, 2 subtasks.
    assert found.disk == 1000 * (20 + 4 * 50) + 1000 * (20 + 4 * 2) + 2 * 5 * 800


def test_fisher_sums_and_solves_before_it_scores():
    cosine, fisher = (stages(todo={"attribution": [name]})["attribution"] for name in ("cosine", "fisher-0.1"))
    # Five groups on eight processes, then three systems.
    assert fisher.seconds == cosine.seconds + 2.0 + 3000 / (5 * 100.0) + 3 * 7.0
    assert fisher.disk == cosine.disk + 5 * 100**2 * 4
    wide = study(features={"dim": 4096})
    plans = plan_stages(wide, facts(todo={"attribution": ["fisher-0.1"]}))
    found = next(stage for stage in plans if stage.name == "attribution")
    # Four processes that sum take more than the one that solves.
    assert (found.memory, found.together) == (10**8 + fisher_memory(4096)[0], 4)


def test_select_adds_up_the_methods_and_holds_the_largest():
    found = stages()["select"]
    assert found.rows == 3000
    assert found.seconds == 1.0 + 2.0 + 4.0
    assert found.memory == 2 * 10**8
    assert found.disk == 3 * 100 * (50 + 20 * 8) + 500


def test_embed_takes_the_prompts():
    found = plan_stages(study(embedding={"max_length": 12, "token_budget": 60}), facts())[1]
    # Of pool and targets. 15 tokens a prompt, cut to 12; 5 rows a batch.
    assert (found.rows, found.tokens, found.batches) == (1050, 12_600, 210)
    assert found.seconds == 2.0 + 12_600 / (2 * 1000.0)
    assert found.disk == 1050 * (20 + 48 * 4) + 6 * 800


def test_represent_takes_pool_and_validation_rows():
    found = stages()["hidden_states"]
    assert (found.rows, found.tokens, found.batches) == (1050, 21_000, 5 * 40 + 10)
    assert found.seconds == 3.0 + 21_000 / (2 * 800.0)
    assert found.disk == 1050 * (20 + 64 * 4) + 6 * 800


def test_likelihood_takes_every_row_and_its_answer_alone():
    found = stages()["likelihood"]
    # 2 rows a batch of 40 tokens, or 6 answers of 5 tokens and the one before: 34 batches a shard of 200.
    assert (found.rows, found.tokens, found.batches) == (2000, 26_000, 5 * 100 + 5 * 34)
    assert found.seconds == 4.0 + 26_000 / (2 * 400.0)


def test_finetune_trains_every_run_by_workers_that_start_once():
    found = stages()["finetune"]
    assert (found.rows, found.tokens) == (3 * 200, 3 * 4000)
    # 100 rows in batches of 40: three steps an epoch.
    assert found.batches == 3 * 2 * 3
    assert found.seconds == 6.0 + 3 * 4000 / (2 * 50.0)
    assert found.disk == 3 * 2 * 1000


def test_evaluate_takes_the_held_out_rows_once_a_run():
    found = stages()["evaluate"]
    assert (found.rows, found.tokens, found.batches) == (40, 400, 4 * 3)
    assert found.seconds == 8.0 + 400 / (4 * 400.0)


def test_without_held_out_rows_there_is_nothing_to_evaluate():
    found = stages(heldout=[])["evaluate"]
    assert (found.rows, found.seconds, found.disk, found.done) == (0, 0.0, 0, False)


def test_stages_that_are_done_need_nothing_more_and_those_that_are_not_needed_are_left_out():
    left = {"select": [], "finetune": ["bids"], "evaluate": ["bids"]}
    paces = {name: PACES[name] for name in ("finetune", "evaluate")}
    found = stages(todo=left, paces=paces)
    assert list(found) == ["select", "finetune", "evaluate"]
    assert [name for name, stage in found.items() if stage.done] == ["select"]
    assert found["select"].disk == 0
    assert found["finetune"].rows == 200
    assert found["evaluate"].rows == 10


def test_a_share_below_one_row_warms_up_on_one():
    found = plan_stages(study(warmup={"share": 1e-6, "epochs": 1}), facts(todo={"warmup": ["warmup"]}))[0]
    assert (found.rows, found.batches) == (1, 1)


def test_where_the_longest_rows_ran_out_of_memory_there_is_no_time():
    found = stages(paces={**PACES, "features": Throughput(7.0, None, memory=10**9)})["features"]
    assert found.seconds is None
    assert found.exhausted


def test_processes_that_share_a_gpu_need_its_memory_together():
    pace = Throughput(1.0, 1.0, memory=1, processes=8, together=8, gpu_memory=10, gpu_total=50, gpu_share=0.25)
    found = stages(paces={**PACES, "features": pace})["features"]
    assert (found.gpu_memory, found.gpu_total) == (40, 50)


def test_features_are_batched_as_memory_allowed_when_they_were_tried():
    pace = Throughput(7.0, 200.0, memory=1, processes=4, token_budget=40)
    found = stages(paces={**PACES, "features": pace})["features"]
    assert found.batches == 3 * (5 * 100 + 25)
    assert found.token_budget == 40


@pytest.mark.parametrize("stage", ["hidden_states", "likelihood", "embed", "evaluate"])
def test_forward_passes_are_batched_as_memory_allowed_when_they_were_tried(stage):
    whole = stages()[stage]
    found = stages(paces={**PACES, stage: replace(PACES[stage], token_budget=20)})[stage]
    assert (found.rows, found.tokens, found.token_budget) == (whole.rows, whole.tokens, 20)
    assert found.batches > whole.batches


def test_no_more_processes_share_a_machine_than_there_are_shards():
    one_shard = {"pool": [rows(1000, 20)], "validation": [rows(50, 20)]}
    found = {stage.name: stage for stage in plan_stages(study(warmup={"epochs": 1}), facts(**one_shard))}
    assert (found["attribution"].together, found["features"].together) == (1, 2)
