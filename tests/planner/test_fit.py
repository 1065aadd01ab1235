"""Warnings of what will not fit."""

from instsel.pipeline.registry import stage_names
from instsel.planner.facts import StagePlan
from instsel.planner.fit import MEMORY_KEYS, Capacity, what_will_not_fit

GB = 10**9
ROOM = Capacity("runs/s", 100 * GB, 16 * GB)


def warnings(*stages, room=ROOM):
    return what_will_not_fit(stages, room)


def test_nothing_is_said_where_all_fits():
    fits = StagePlan("features", memory=8 * GB, together=2, gpu_memory=10, gpu_total=10, disk=100 * GB)
    assert warnings(StagePlan("warmup", done=True), fits) == []


def test_a_stage_that_is_larger_than_the_disk_is_named_with_what_to_change():
    found = warnings(
        StagePlan("warmup", disk=10**6),
        StagePlan("features", disk=17_740_000_000),
        room=Capacity("DIR", 9_100_000_000, GB),
    )
    assert found == [
        "disk: features needs 17.7 GB, DIR has 9.1 GB free; free some or choose another `out`; "
        "or lower features.dim, or set features.storage: int8"
    ]


def test_what_is_set_already_is_not_proposed():
    found = warnings(StagePlan("features", disk=17 * GB), room=Capacity("DIR", 9 * GB, GB, "int8"))
    assert found[0].endswith("or lower features.dim")


def test_stages_that_only_together_are_larger_than_the_disk_are_told_together():
    found = warnings(StagePlan("features", disk=60 * GB), StagePlan("attribution", disk=50 * GB))
    assert found[0].startswith("disk: the stages need 110 GB, features alone 60.0 GB, runs/s has 100 GB free")


def test_an_object_store_has_no_end():
    assert warnings(StagePlan("features", disk=10**18), room=Capacity("s3://b/s", None, GB)) == []


def test_processes_of_one_machine_need_its_memory_together():
    assert warnings(StagePlan("features", memory=9 * GB, together=2)) == [
        "memory: features needs 2 x 9.0 GB on a machine that has 16.0 GB; "
        "lower features.token_budget or resources.actors"
    ]
    assert warnings(StagePlan("select", memory=20 * GB)) == [
        "memory: select needs 20.0 GB on a machine that has 16.0 GB; "
        "lower targets.NAME.max_validation, features.dim or selection.budget"
    ]


def test_of_machines_that_are_not_here_the_memory_is_not_known():
    assert warnings(StagePlan("features", memory=10**15), room=Capacity("runs/s", None, None)) == []


def test_every_stage_of_a_plan_has_keys_that_lower_its_memory():
    assert set(MEMORY_KEYS) == set(stage_names()) - {"report"}


def test_what_was_seen_when_batches_were_tried_is_told():
    too_much = StagePlan("evaluate", gpu_memory=90 * GB, gpu_total=80 * GB)
    ran_out = StagePlan("warmup", seconds=None, gpu_memory=79 * GB, gpu_total=80 * GB, exhausted=True)
    lowered = StagePlan("features", gpu_memory=79 * GB, gpu_total=80 * GB, token_budget=1024)
    assert warnings(too_much, ran_out, lowered, StagePlan("finetune", exhausted=True)) == [
        "GPU memory: evaluate needs 90.0 GB on a GPU that has 80.0 GB; "
        "lower evaluation.token_budget or resources.actors",
        "GPU memory: warmup ran out of it on the longest rows; "
        "lower warmup.micro_batch_size or resources.training_workers",
        "GPU memory: features ran out of it; batches of 1,024 tokens fit",
        "memory: finetune ran out of it on the longest rows; "
        "lower finetune.micro_batch_size or resources.training_workers",
    ]
