"""What the stages say they will take, against numbers worked out by hand, and warnings of what will not fit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from instsel.attribution.timing import AttributionTimes, time_attribution
from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.pipeline import fisher as fisher_sums
from instsel.pipeline.attribution import scoring_memory
from instsel.pipeline.features import feature_bytes
from instsel.pipeline.fisher import fisher_disk, fisher_memory
from instsel.pipeline.registry import load_stages, stage_names
from instsel.planner.estimate import Capacity, estimate_stages, find_shortages
from instsel.study.estimates import Counts, FunctionRun, PlanContext, RowSet, StageEstimate, Throughput

GB = 10**9
KEYS = {
    "name": "s",
    "out": "nowhere",
    "model": {"name": "m"},
    "pool": [{"path": "p.jsonl"}],
    "targets": {"t": {"validation": "v.jsonl", "heldout": "h.jsonl"}},
    "selection": {
        "budget": 0.1,
        "damping": 0.1,
        "methods": [
            "random",
            "less",
            "bids",
            "rds",
            "graph_cut",
            {"method": "less", "name": "less-means", "average": "gradients"},
            {"method": "g2is", "attribution": "fisher"},
            {"method": "bids", "name": "bids-fisher", "attribution": "fisher"},
        ],
    },
    "warmup": {"share": 0.1, "epochs": 3, "batch_size": 10},
    "finetune": {"epochs": 2, "batch_size": 40},
    "features": {"dim": 100, "token_budget": 100},
    "evaluation": {"token_budget": 40},
}
EVERYTHING = {
    "prepare": [""],
    "answers": ["validation"],
    "embed": [""],
    "hidden_states": [""],
    "likelihood": [""],
    "warmup": [""],
    "features": [""],
    "contrast": [""],
    "attribution": ["cosine"],
    "select": ["random", "less", "bids"],
    "finetune": ["random", "less", "bids"],
    "headroom": [""],
    "evaluate": ["base", "random", "less", "bids"],
}
RATES = {
    "warmup": Throughput(5.0, 100.0, memory=GB, processes=2, together=2, checkpoint_bytes=1000),
    "finetune": Throughput(6.0, 50.0, memory=GB, processes=2, together=2, checkpoint_bytes=1000),
    "features": Throughput(7.0, 200.0, memory=2 * GB, processes=4, together=2),
    "evaluate": Throughput(8.0, 400.0, memory=GB, processes=4, together=2),
    "embed": Throughput(2.0, 1000.0, memory=10**8, processes=2, together=2, width=48),
    "hidden_states": Throughput(3.0, 800.0, memory=GB, processes=2, together=2, width=64),
    "likelihood": Throughput(4.0, 400.0, memory=GB, processes=2, together=2),
    "interaction": Throughput(6.0, 50.0, memory=GB, processes=2, together=2),
}
SELECTIONS = {
    "random": Throughput(0.0, 1000.0, memory=10**8),
    "less": Throughput(1.0, 1000.0, memory=2 * 10**8, scratch=500),
    "bids": Throughput(3.0, 1000.0, memory=10**8, scratch=400),
}
TIMES = AttributionTimes({50: 1 / 600, 2: 1 / 1200}, sum=1 / 100)
SOLVE = 7.0
MIXTURE = {
    "evaluation_rows": 10,
    "interventions": {"bases": 2, "base_rows": 30, "added_rows": 20},
    "regression": {"runs": 4, "share": 0.5, "base_rows": 10, "added_rows": 20},
}


@pytest.fixture(autouse=True)
def solve_in_seven_seconds(monkeypatch):
    monkeypatch.setattr(fisher_sums, "seconds_to_solve", lambda dim, columns: SOLVE)


class KnownRates:
    """A profiler whose rates are given."""

    def __init__(self, rates):
        self.rates = {**RATES, **rates}
        self.selections = []

    def batches(self, probe):
        return self.rates[probe.name]

    training = batches

    def run(self, function, *arguments):
        assert function is time_attribution
        return FunctionRun(1.0, TIMES, memory=10**8, processes=8, together=4)

    def selection(self, method, columns, damping, width):
        self.selections.append((method.name, columns, damping, width))
        return SELECTIONS.get(method.method, SELECTIONS["random"])


class OpenGraph:
    """Stages of which none is done."""

    folder = Folder.at("nowhere")

    def stage(self, name):
        return next(stage for stage in load_stages() if stage.name == name)

    def __getitem__(self, key):
        return SimpleNamespace(done=lambda: False)


def rows(count, length, shards=1):
    """A quarter of the tokens are answers."""
    return RowSet(count, shards, np.full(count, length), np.full(count, length // 4))


def study(**changes):
    return parse_study({**KEYS, **changes}, "test")


def mixture_study(mixture=None, **changes):
    selection = {"budget": 0.1, "methods": ["random"]}
    return study(**{"selection": selection, **changes}, mixture={**MIXTURE, **(mixture or {})})


def counts(**changes):
    """1,000 pool rows of 20 tokens in 5 shards, 50 validation rows of 20 and 10 held-out rows of 10."""
    known = {
        "pool": [rows(600, 20, shards=3), rows(400, 20, shards=2)],
        "validation": [rows(50, 20)],
        "heldout": [rows(10, 10)],
        "chosen": 100,
        "subtasks": 2,
        "groups": {"source": [600, 400], "task": [300, 300, 400]},
        "prepare_seconds": 12.0,
        "prepare_bytes": 345,
        "prepare_memory": 678,
        "chosen_bytes": 50.0,
    }
    return Counts(**{**known, **changes})


def stages(todo=EVERYTHING, config=None, rates=None, profiler=None, **changes):
    """The estimates by stage, of a study with these counts."""
    profiler = profiler or KnownRates(rates or {})
    context = PlanContext(config or study(), OpenGraph(), counts(**changes), profiler)
    return {estimate.name: estimate for estimate in estimate_stages(context, todo)}


def test_prepare_has_every_row_once():
    estimate = stages()["prepare"]
    assert (estimate.rows, estimate.tokens, estimate.batches) == (1060, 21_100, None)
    assert (estimate.seconds, estimate.disk, estimate.memory) == (12.0, 345, 678)


def test_warmup_trains_on_its_share_and_keeps_a_checkpoint_an_epoch():
    estimate = stages()["warmup"]
    assert (estimate.rows, estimate.tokens, estimate.batches) == (300, 6000, 30)
    assert estimate.seconds == 5.0 + 6000 / (2 * 100.0)
    assert estimate.disk == 3 * 1000 + 100 * (20 + 20 * 8)
    assert (estimate.memory, estimate.together) == (GB, 2)


def test_features_take_pool_and_validation_rows_at_every_checkpoint():
    estimate = stages()["features"]
    # 5 rows a batch of 100 tokens: 40 batches a shard of 200 rows, 10 for the validation rows.
    assert (estimate.rows, estimate.tokens, estimate.batches) == (3 * 1050, 3 * 21_000, 3 * (5 * 40 + 10))
    assert estimate.seconds == 7.0 + 3 * 21_000 / (4 * 200.0)
    assert estimate.disk == 3 * (1050 * (204 + 20) + 6 * 2400)
    assert estimate.memory == 2 * GB + 200 * 100 * 20


def test_answers_take_as_long_as_their_tokens_took_to_prepare():
    estimate = stages()["answers"]
    # Five answers to 50 rows of 20 tokens; 12 s for 21,100 tokens.
    assert (estimate.rows, estimate.tokens) == (250, 5000)
    assert estimate.seconds == pytest.approx(12.0 * 5000 / 21_100)
    both = stages({"answers": ["validation", "heldout"]})["answers"]
    assert (both.rows, both.tokens) == (300, 5500)


def test_contrast_takes_all_answers_and_keeps_a_gradient_a_validation_row():
    estimate = stages()["contrast"]
    assert (estimate.rows, estimate.tokens, estimate.batches) == (3 * 250, 3 * 5000, 3 * 50)
    # One target at three checkpoints keeps three of four actors busy.
    assert estimate.seconds == 7.0 + 3 * 5000 / (3 * 200.0)
    assert estimate.disk == 3 * (50 * (204 + 20) + 2400)
    assert estimate.memory == 2 * GB + 3 * 250 * 100 * 4
    twice = stages(config=study(answers={"others": 9}))["contrast"]
    assert (twice.rows, twice.disk) == (3 * 500, estimate.disk)


def test_headroom_trains_for_each_target_and_scores_its_validation_rows():
    folds = stages({"headroom": [""]})["headroom"]
    # Three folds: 33 of 50 rows by two epochs each; base model and three adapters on 50 rows.
    assert folds.rows == 3 * 2 * 33 + 4 * 50
    assert folds.tokens == 3 * 2 * 33 * 20 + 4 * 50 * 20
    assert folds.seconds == (6.0 + 3 * 2 * 33 * 20 / (2 * 50.0)) + (8.0 + 4 * 1000 / (4 * 400.0))
    target = {"validation": "v.jsonl", "heldout": "h.jsonl", "served_by": ["web"]}
    served = stages({"headroom": [""]}, study(targets={"t": target}))["headroom"]
    # The rows of a selection by two epochs; base model and one adapter.
    assert served.rows == 2 * 100 + 2 * 50
    split = stages({"headroom": [""]}, study(evaluation={"token_budget": 40, "form_and_content": True}))["headroom"]
    assert split.rows == folds.rows + 4 * 250


def test_fewer_shards_than_actors_keep_fewer_actors_busy():
    config = study(warmup={"share": 0.1, "epochs": 1})
    estimate = stages({"features": [""]}, config, pool=[rows(1000, 20)])["features"]
    assert estimate.seconds == 7.0 + 21_000 / (2 * 200.0)


def test_a_checkpoint_of_270679_rows_of_8192_float16_is_4_4_gb():
    assert feature_bytes(study(features={}).features, 270_679, 271) == pytest.approx(4.44e9, rel=1e-2)
    assert 270_679 * 2 * 8192 == 4_434_804_736


def test_int8_features_take_half_the_disk():
    halved = feature_bytes(study(features={"storage": "int8"}).features, 270_679, 271)
    assert halved == pytest.approx(2.22e9, rel=1e-2)


def test_attribution_scores_every_row_at_every_checkpoint():
    estimate = stages()["attribution"]
    assert estimate.rows == 3000
    # Eight processes and five shards.
    assert estimate.seconds == pytest.approx(1.0 + 3000 / (5 * 600.0))
    assert estimate.disk == 1000 * (20 + 4 * 50) + 5 * 800
    assert estimate.memory == 10**8 + scoring_memory((3, 200, 50, 100), "float16")


def test_every_kind_of_influence_is_scored_and_stored():
    estimate = stages({"attribution": ["cosine", "cosine-subtasks"]})["attribution"]
    assert estimate.rows == 2 * 3000
    assert estimate.seconds == pytest.approx(1.0 + 3000 / (5 * 600.0) + 1.0 + 3000 / (5 * 1200.0))
    # 50 validation rows, 2 subtasks.
    assert estimate.disk == 1000 * (20 + 4 * 50) + 1000 * (20 + 4 * 2) + 2 * 5 * 800


def test_fisher_sums_and_solves_before_it_scores():
    cosine, fisher = (stages({"attribution": [name]})["attribution"] for name in ("cosine", "fisher-0.1"))
    # Five groups on eight processes, then three systems.
    assert fisher.seconds == pytest.approx(cosine.seconds + 1.0 + 3000 / (5 * 100.0) + 3 * SOLVE)
    assert fisher.disk == cosine.disk + 5 * 100**2 * 4
    wide = stages({"attribution": ["fisher-0.1"]}, study(features={"dim": 4096}))["attribution"]
    # Four processes that sum take more than the process that solves; eight sum 20 strips.
    assert (wide.memory, wide.together) == (10**8 + fisher_memory(4096)[0], 4)
    plain = stages({"attribution": ["cosine"]}, study(features={"dim": 4096}))["attribution"]
    assert wide.seconds == pytest.approx(plain.seconds + 1.0 + 3000 / (8 * 100.0) + 3 * SOLVE)
    assert wide.disk == plain.disk + fisher_disk(4096, 5)


def test_every_damped_influence_sums_for_itself():
    alone, both = (
        stages({"attribution": names}, damped_twice())["attribution"]
        for names in (["fisher-0.1"], ["fisher-0.1", "fisher-0.1-subtasks"])
    )
    again = 1.0 + 3000 / (5 * 100.0) + 3 * SOLVE
    assert both.seconds == pytest.approx(alone.seconds + 1.0 + 3000 / (5 * 1200.0) + again)
    # The sums are removed before the next ones are written.
    assert both.disk == alone.disk + 1000 * (20 + 4 * 2) + 5 * 800


def damped_twice():
    methods = ["bids", {"method": "less", "average": "gradients"}]
    return study(selection={"budget": 0.1, "damping": 0.1, "attribution": "fisher", "methods": methods})


def test_attribution_holds_the_validation_features_of_all_checkpoints():
    # 4 checkpoints, 500 validation rows of 8192 float32: 65.5 MB, and 16.4 MB scaled; 1,000 rows with their norms.
    working = 5 * 500 * 8192 * 4 + 1000 * 500 * 4 + 3 * 1000 * 8192 * 4
    shape = (4, 1000, 500, 8192)
    assert scoring_memory(shape, "float16") == working + 4 * 1000 * (8192 * 2 + 4)
    assert scoring_memory(shape, "int8") == working + 4 * 1000 * (8192 + 8)


def test_select_adds_up_the_methods_and_holds_the_largest():
    estimate = stages()["select"]
    assert estimate.rows == 3000
    assert estimate.seconds == 1.0 + 2.0 + 4.0
    # A process that writes holds four parts of 64 MiB, and the parts are on disk beside the largest selection.
    assert estimate.memory == 2 * 10**8 + 2**28
    assert estimate.disk == 4 * 100 * (50 + 20 * 8) + 500


def test_fault_14_select_counts_the_time_to_write_what_is_chosen():
    # Three selections of 100 rows.
    assert stages(chosen_seconds=0.5)["select"].seconds == stages()["select"].seconds + 3 * 100 * 0.5


def test_a_choice_is_timed_with_the_columns_the_damping_and_the_width_that_it_will_have():
    profiler = KnownRates({})
    names = ["random", "less", "less-means", "bids-fisher", "g2is", "graph_cut", "rds"]
    stages({"select": names}, profiler=profiler)
    assert profiler.selections == [
        ("random", 50, None, 0),
        ("less", 50, None, 0),
        ("less-means", 2, None, 0),
        ("bids-fisher", 50, 0.1, 0),
        ("g2is", 50, 0.1, 0),
        ("graph_cut", 50, None, 48),
        ("rds", 50, None, 64),
    ]


def test_embed_takes_the_prompts():
    config = study(embedding={"max_length": 12, "token_budget": 60})
    estimate = stages(config=config)["embed"]
    # Of pool and targets. 15 tokens a prompt, cut to 12; 5 rows a batch.
    assert (estimate.rows, estimate.tokens, estimate.batches) == (1050, 12_600, 210)
    assert estimate.seconds == 2.0 + 12_600 / (2 * 1000.0)
    assert estimate.disk == 1050 * (20 + 48 * 4) + 6 * 800


def test_hidden_states_take_pool_and_validation_rows():
    estimate = stages()["hidden_states"]
    assert (estimate.rows, estimate.tokens, estimate.batches) == (1050, 21_000, 5 * 40 + 10)
    assert estimate.seconds == 3.0 + 21_000 / (2 * 800.0)
    assert estimate.disk == 1050 * (20 + 64 * 4) + 6 * 800


def test_likelihood_takes_every_row_and_its_answer_alone():
    estimate = stages()["likelihood"]
    # 2 rows a batch of 40 tokens, or 6 answers of 5 tokens and the token before: 34 batches a shard of 200.
    assert (estimate.rows, estimate.tokens, estimate.batches) == (2000, 26_000, 5 * 100 + 5 * 34)
    assert estimate.seconds == 4.0 + 26_000 / (2 * 400.0)


def test_likelihood_writes_two_losses_a_row():
    assert stages()["likelihood"].disk == 1000 * (20 + 16) + 5 * 1600


def test_arms_are_planned_with_the_rows_that_they_are_trained_on():
    methods = [
        "bids",
        "full_pool",
        "validation_only",
        {"method": "random", "name": "more", "extra_for": "bids"},
        {"method": "random", "name": "as-long", "lengths_of": "bids"},
    ]
    names = ["bids", "full_pool", "validation_only", "more", "as-long"]
    planned = {
        name: stages({"finetune": [name]}, study(selection={"budget": 0.1, "methods": methods}))["finetune"].rows // 2
        for name in names
    }
    # 6,000 tokens of the warmup and three checkpoints of 1,050 rows of 20 tokens, in two epochs of such rows.
    more = 100 + (6000 + 3 * 21_000) // 2 // 20
    assert planned == {"bids": 100, "full_pool": 1000, "validation_only": 100, "more": more, "as-long": 100}
    beside = study(selection={"budget": 0.1, "methods": methods, "include_validation": True})
    assert stages({"finetune": ["full_pool", "bids"]}, beside)["finetune"].rows == 2 * (1050 + 150)


def test_finetune_trains_every_run_by_workers_that_start_once():
    estimate = stages()["finetune"]
    assert (estimate.rows, estimate.tokens) == (3 * 200, 3 * 4000)
    # 100 rows in batches of 40: three steps an epoch.
    assert estimate.batches == 3 * 2 * 3
    assert estimate.seconds == 6.0 + 3 * 4000 / (2 * 50.0)
    assert estimate.disk == 3 * 2 * 1000


def test_evaluate_takes_the_held_out_rows_once_a_run():
    estimate = stages()["evaluate"]
    assert (estimate.rows, estimate.tokens, estimate.batches) == (40, 400, 4 * 3)
    assert estimate.seconds == 8.0 + 400 / (4 * 400.0)
    assert estimate.disk == 40 * (20 + 8)


def test_form_and_content_take_all_answers_to_the_held_out_rows_besides():
    plain = stages({"evaluate": ["base"]})["evaluate"]
    estimate = stages({"evaluate": ["base"]}, study(evaluation={"token_budget": 40, "form_and_content": True}))[
        "evaluate"
    ]
    # Of 10 rows five answers each.
    assert (plain.rows, plain.tokens) == (10, 100)
    assert (estimate.rows, estimate.tokens) == (10 + 50, 100 + 500)
    # Rows and answers are a set each, and two actors take them.
    assert estimate.seconds == 8.0 + 600 / (2 * 400.0)


def test_without_held_out_rows_there_is_nothing_to_evaluate():
    estimate = stages(heldout=[])["evaluate"]
    assert (estimate.rows, estimate.seconds, estimate.disk, estimate.done) == (0, 0.0, 0, False)


def test_stages_that_are_done_need_nothing_more_and_those_that_are_not_needed_are_left_out():
    estimates = stages({"select": [], "finetune": ["bids"], "evaluate": ["bids"]})
    assert list(estimates) == ["select", "finetune", "evaluate"]
    assert [name for name, estimate in estimates.items() if estimate.done] == ["select"]
    assert estimates["select"].disk == 0
    assert estimates["finetune"].rows == 200
    assert estimates["evaluate"].rows == 10


def test_a_share_below_one_row_warms_up_on_one():
    config = study(warmup={"share": 1e-6, "epochs": 1})
    estimate = stages({"warmup": [""]}, config)["warmup"]
    assert (estimate.rows, estimate.batches) == (1, 1)


def test_where_the_longest_rows_ran_out_of_memory_there_is_no_time():
    estimate = stages(rates={"features": Throughput(7.0, None, memory=GB)})["features"]
    assert estimate.seconds is None
    assert estimate.exhausted


def test_processes_that_share_a_gpu_need_its_memory_together():
    rate = Throughput(1.0, 1.0, memory=1, processes=8, together=8, gpu_memory=10, gpu_total=50, gpu_share=0.25)
    estimate = stages(rates={"features": rate})["features"]
    assert (estimate.gpu_memory, estimate.gpu_total) == (40, 50)


def test_features_are_batched_as_memory_allowed_when_they_were_tried():
    rate = Throughput(7.0, 200.0, memory=1, processes=4, token_budget=40)
    estimate = stages(rates={"features": rate})["features"]
    assert estimate.batches == 3 * (5 * 100 + 25)
    assert estimate.token_budget == 40


@pytest.mark.parametrize("stage", ["hidden_states", "likelihood", "embed", "evaluate"])
def test_forward_passes_are_batched_as_memory_allowed_when_they_were_tried(stage):
    whole = stages()[stage]
    estimate = stages(rates={stage: replace(RATES[stage], token_budget=20)})[stage]
    assert (estimate.rows, estimate.tokens, estimate.token_budget) == (whole.rows, whole.tokens, 20)
    assert estimate.batches > whole.batches


def test_no_more_processes_share_a_machine_than_there_are_shards():
    estimates = stages(config=study(warmup={"epochs": 1}), pool=[rows(1000, 20)])
    assert (estimates["attribution"].together, estimates["features"].together) == (1, 2)


SMALL = {"pool": [rows(100, 20)], "validation": [], "heldout": [], "chosen": 10, "groups": {"source": [30, 30, 40]}}


def interaction(*estimators, config=None, rates=None, **changes):
    """The estimate of estimators for three categories, and a pool of 100 rows."""
    config = config or mixture_study({"categories": {"by": "source"}})
    return stages({"interaction": estimators}, config, rates, **{**SMALL, **changes})["interaction"]


def test_interventions_train_on_bases_additions_and_removals():
    estimate = interaction("interventions")
    trained = 2 * (30 + 3 * 50 + 3 * 20) * 2
    assert (estimate.rows, estimate.tokens) == (trained, trained * 20)
    # Fourteen runs, each started anew, by two workers.
    assert estimate.seconds == pytest.approx(6.0 + trained * 20 / (2 * 50.0))
    assert (estimate.memory, estimate.together) == (GB, 2)


def test_without_removals_there_are_fewer_runs():
    interventions = {**MIXTURE["interventions"], "removals": False}
    config = mixture_study({"categories": {"by": "source"}, "interventions": interventions})
    assert interaction("interventions", config=config).rows == 2 * (30 + 3 * 50) * 2


def test_gradients_are_taken_of_the_rows_evaluated_on():
    estimate = interaction("gradients")
    assert (estimate.rows, estimate.tokens) == (3 * 3 * 10, 3 * 3 * 10 * 20)
    assert estimate.seconds == pytest.approx(7.0 + 1800 / (4 * 200.0))
    assert (estimate.memory, estimate.together) == (2 * GB, 2)


def test_regression_trains_on_half_of_the_additions():
    assert interaction("regression").rows == 4 * (10 + 0.5 * 3 * 20) * 2


def test_training_of_the_mixture_and_evaluation_count():
    config = mixture_study({"categories": {"by": "source"}, "training": {"epochs": 5}})
    rates = {"evaluate": Throughput(8.0, 400.0, memory=GB)}
    estimate = interaction("regression", config=config, rates=rates, heldout=[rows(10, 10)])
    assert estimate.rows == 4 * 40 * 5
    assert estimate.seconds == pytest.approx(6.0 + 4 * 40 * 5 * 20 / 100 + 8.0 + 4 * 3 * 10 * 20 / 400)


def test_estimators_add_up():
    both = interaction("gradients", "interventions")
    apart = [interaction(name) for name in ("gradients", "interventions")]
    assert both.rows == sum(estimate.rows for estimate in apart)
    assert both.seconds == pytest.approx(sum(estimate.seconds for estimate in apart))
    # Of the workers, as they were timed.
    assert both.memory == GB


def test_adapters_of_all_runs_lie_on_the_disk_until_they_are_evaluated():
    few, many = (
        interaction(
            "interventions",
            "regression",
            rates={"interaction": replace(RATES["interaction"], checkpoint_bytes=size)},
        ).disk
        for size in (0, 10**6)
    )
    # Every epoch leaves a checkpoint; of the two estimators the one with more runs counts.
    assert many - few == 14 * 2 * 10**6


def test_memory_that_ran_out_leaves_no_time():
    rates = {"interaction": replace(RATES["interaction"], speed=None)}
    estimate = interaction("interventions", rates=rates)
    assert estimate.seconds is None and estimate.exhausted


ENDPOINT = {"by": "endpoint", "url": "http://localhost/v1", "model": "m"}


def test_time_of_an_endpoint_is_not_known():
    todo = {"categorize": [""]}
    assert stages(todo, mixture_study({"categories": ENDPOINT}))["categorize"].seconds is None
    estimate = stages(todo, mixture_study())["categorize"]
    assert (estimate.rows, estimate.seconds, estimate.disk) == (1000, 0.0, 1000 * (20 + 40))


@pytest.mark.parametrize(
    ("categories", "count"),
    [
        ({"by": "source"}, 2),
        ({"by": "task"}, 3),
        ({"by": "clusters", "count": 7}, 7),
        ({**ENDPOINT, "labels": ["a", "b", "c", "d"]}, 4),
        ({**ENDPOINT, "count": 6}, 6),
    ],
)
def test_categories_are_those_of_the_pool_or_as_many_as_asked_for(categories, count):
    config = mixture_study({"categories": categories})
    assert stages({"interaction": ["gradients"]}, config)["interaction"].rows == 3 * count * 10


ROOM = Capacity("runs/s", 100 * GB, 16 * GB)


def warnings(*estimates, room=ROOM):
    return find_shortages(estimates, room)


def advised(name, **numbers):
    """An estimate of a stage with the advice that it gives."""
    todo = {**EVERYTHING, "categorize": [""], "interaction": ["regression"]}
    return replace(stages({name: todo[name]}, mixture_study() if name == "interaction" else None)[name], **numbers)


def test_nothing_is_said_where_all_fits():
    fits = StageEstimate("features", memory=8 * GB, together=2, gpu_memory=10, gpu_total=10, disk=100 * GB)
    assert warnings(StageEstimate("warmup", done=True), fits) == []


def test_a_stage_that_is_larger_than_the_disk_is_named_with_what_to_change():
    lines = warnings(
        StageEstimate("warmup", disk=10**6),
        advised("features", disk=17_740_000_000),
        room=Capacity("DIR", 9_100_000_000, 16 * GB),
    )
    assert lines == [
        (
            "disk: features needs 17.7 GB, DIR has 9.1 GB free; free some or choose another `out`; "
            "or lower features.dim, or set features.storage: int8"
        )
    ]


def test_what_is_set_already_is_not_proposed():
    config = study(features={"storage": "int8"})
    estimate = replace(stages({"features": [""]}, config)["features"], disk=17 * GB)
    lines = warnings(estimate, room=Capacity("DIR", 9 * GB, 16 * GB))
    assert lines[0].endswith("or lower features.dim")


def test_a_stage_without_advice_is_named_all_the_same():
    lines = warnings(StageEstimate("prepare", disk=17 * GB), room=Capacity("DIR", 9 * GB, GB))
    assert lines == ["disk: prepare needs 17.0 GB, DIR has 9.0 GB free; free some or choose another `out`"]


def test_stages_that_only_together_are_larger_than_the_disk_are_named_together():
    lines = warnings(StageEstimate("features", disk=60 * GB), StageEstimate("attribution", disk=50 * GB))
    assert lines[0].startswith("disk: the stages need 110 GB, features alone 60.0 GB, runs/s has 100 GB free")


def test_an_object_store_has_no_end():
    assert warnings(StageEstimate("features", disk=10**18), room=Capacity("s3://b/s", None, GB)) == []


def test_processes_of_a_machine_need_its_memory_together():
    assert warnings(advised("features", memory=9 * GB, together=2)) == [
        (
            "memory: features needs 2 x 9.0 GB on a machine that has 16.0 GB; "
            "lower features.token_budget or resources.actors"
        )
    ]
    assert warnings(advised("select", memory=20 * GB)) == [
        (
            "memory: select needs 20.0 GB on a machine that has 16.0 GB; "
            "lower targets.NAME.max_validation, features.dim or selection.budget"
        )
    ]


def test_of_machines_that_are_not_here_the_memory_is_not_known():
    assert warnings(StageEstimate("features", memory=10**15), room=Capacity("runs/s", None, None)) == []


MEMORY_ADVICE = {
    "prepare": "lower data.shard_rows",
    "answers": "lower answers.others",
    "contrast": "lower features.token_budget or resources.actors",
    "embed": "lower embedding.token_budget or resources.actors",
    "hidden_states": "lower features.token_budget or resources.actors",
    "likelihood": "lower evaluation.token_budget or resources.actors",
    "categorize": "lower embedding.token_budget",
    "warmup": "lower warmup.micro_batch_size or resources.training_workers",
    "features": "lower features.token_budget or resources.actors",
    "attribution": "lower features.dim or targets.NAME.max_validation",
    "interaction": "lower mixture.training.micro_batch_size, resources.training_workers or features.token_budget",
    "select": "lower targets.NAME.max_validation, features.dim or selection.budget",
    "finetune": "lower finetune.micro_batch_size or resources.training_workers",
    "headroom": "lower finetune.micro_batch_size, resources.training_workers or evaluation.token_budget",
    "evaluate": "lower evaluation.token_budget or resources.actors",
}
DISK_ADVICE = {
    "contrast": "lower features.dim or targets.NAME.max_validation",
    "features": "lower features.dim, or set features.storage: int8",
    "attribution": "lower targets.NAME.max_validation or, with fisher, features.dim",
    "select": "lower features.dim or targets.NAME.max_validation",
    "warmup": "lower warmup.epochs or lora.rank",
    "finetune": "lower finetune.epochs or lora.rank",
    "headroom": "lower finetune.epochs or lora.rank",
}


def test_every_stage_of_a_plan_has_keys_that_lower_its_memory_and_some_have_for_the_disk():
    todo = {**EVERYTHING, "categorize": [""], "interaction": ["regression"]}
    estimates = stages(todo, study(mixture=MIXTURE)).values()
    # Only studies that score answers have those two.
    assert set(todo) == set(stage_names()) - {"report", "benchmarks", "accuracy"}
    assert {estimate.name: estimate.memory_advice for estimate in estimates} == MEMORY_ADVICE
    assert {estimate.name: estimate.disk_advice for estimate in estimates if estimate.disk_advice} == DISK_ADVICE


def test_what_was_seen_when_batches_were_tried_is_said():
    too_much = advised("evaluate", gpu_memory=90 * GB, gpu_total=80 * GB)
    ran_out = advised("warmup", seconds=None, gpu_memory=79 * GB, gpu_total=80 * GB, exhausted=True)
    lowered = advised("features", gpu_memory=79 * GB, gpu_total=80 * GB, token_budget=1024)
    assert warnings(too_much, ran_out, lowered, advised("finetune", exhausted=True)) == [
        (
            "GPU memory: evaluate needs 90.0 GB on a GPU that has 80.0 GB; "
            "lower evaluation.token_budget or resources.actors"
        ),
        (
            "GPU memory: warmup ran out of it on the longest rows; "
            "lower warmup.micro_batch_size or resources.training_workers"
        ),
        "GPU memory: features ran out of it; batches of 1,024 tokens fit",
        (
            "memory: finetune ran out of it on the longest rows; "
            "lower finetune.micro_batch_size or resources.training_workers"
        ),
    ]
