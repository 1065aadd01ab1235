"""How a cluster is divided: everything that runs at once fits, node by node, and what feeds it beside it."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from instsel.config.study import Resources
from instsel.errors import StudyError
from instsel.study.resources import READER_CPUS, Node, ResourcePlan, divide_among_trials, divide_cluster

SIZES = st.builds(Node, st.integers(1, 64).map(float), st.integers(0, 8).map(float))
CLUSTERS = st.lists(SIZES, min_size=1, max_size=5)
FRACTIONS = st.sampled_from([None, 0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 4.0])


def plan_for(nodes: list[Node], per_actor: float | None, **resources: Any) -> ResourcePlan:
    """Plan, without examples in which an actor is larger than every node."""
    if not any(node.gpus for node in nodes):
        per_actor = None
    assume(per_actor is None or per_actor <= max(node.gpus for node in nodes))
    return divide_cluster(nodes, Resources(gpus_per_actor=per_actor, **resources))


def placed(nodes: list[Node], processes: list[tuple[float, float]]) -> tuple[int, list[float]]:
    """Place processes of (CPUs, GPUs) on the first node with room; return their number and the CPUs left."""
    cpus = [node.cpus for node in nodes]
    # A part of a GPU is a part of one GPU.
    gpus = [[1.0] * int(node.gpus) for node in nodes]
    count = 0
    for cpu, gpu in processes:
        for index in range(len(nodes)):
            whole = [number for number, left in enumerate(gpus[index]) if left >= min(gpu, 1) - 1e-9]
            if cpus[index] < cpu - 1e-9 or len(whole) < max(1, gpu) * bool(gpu):
                continue
            for number in whole[: int(max(1, gpu))] if gpu else []:
                gpus[index][number] -= min(gpu, 1)
            cpus[index] -= cpu
            count += 1
            break
    return count, cpus


@settings(max_examples=300)
@given(CLUSTERS, FRACTIONS, st.booleans())
def test_fault_01_actors_and_workers_fit_and_a_reader_beside_them(
    nodes: list[Node], per_actor: float | None, reverse: bool
) -> None:
    plan = plan_for(nodes, per_actor)
    order = nodes[::-1] if reverse else nodes
    for processes in (
        [(plan.cpus, plan.gpus)] * plan.actors,
        [(plan.worker_cpus, plan.worker_gpus)] * plan.workers,
    ):
        count, free = placed(order, processes)
        assert count == len(processes)
        assert any(cpus >= READER_CPUS for cpus in free)
        if plan.gpus:
            assert all(after >= node.cpus / 2 - 1e-9 for after, node in zip(free, order, strict=True))
    # Ray Data would run the reading inside of the actors.
    assert plan.gpus or plan.cpus != READER_CPUS


@settings(max_examples=300)
@given(CLUSTERS, FRACTIONS)
def test_every_gpu_is_used(nodes: list[Node], per_actor: float | None) -> None:
    plan = plan_for(nodes, per_actor)
    gpus = sum(node.gpus for node in nodes)
    if not gpus:
        assert (plan.gpus, plan.worker_gpus) == (0, 0)
        return
    assert plan.workers == gpus
    if per_actor is None or per_actor <= 1:
        each = int(1 / (per_actor or 1) + 1e-9)
        beside = [min(node.gpus * each, node.cpus * 50) for node in nodes]
        assert plan.actors == sum(map(int, beside))


@settings(max_examples=300)
@given(CLUSTERS, FRACTIONS, st.integers(1, 4), st.integers(0, 6))
def test_fault_01_trials_side_by_side_train_and_evaluate_with_room_for_readers(
    nodes: list[Node], per_actor: float | None, workers: int, training: int
) -> None:
    plan = plan_for(nodes, per_actor)
    try:
        each, at_once = divide_among_trials(plan, nodes, workers)
    except StudyError:
        return
    if at_once == 1:
        return
    training = min(training, at_once)
    processes = [(each.worker_cpus, each.worker_gpus)] * each.workers * training
    processes += [(each.cpus, each.gpus)] * each.actors * (at_once - training)
    _, free = placed(nodes, processes)
    assert any(cpus >= READER_CPUS for cpus in free)


@given(CLUSTERS, st.integers(1, 8), st.sampled_from([0.5, 1.0]))
def test_no_more_gpus_are_held_than_the_study_may(nodes: list[Node], most: int, per_actor: float) -> None:
    plan = plan_for(nodes, per_actor, max_gpus=most)
    assert plan.gpus_held <= most
    if plan.gpus:
        _, at_once = divide_among_trials(plan, nodes, None)
        assert at_once <= most


@pytest.mark.parametrize("cpus", [1, 2, 64])
@pytest.mark.parametrize("actors", [1, 5, 100])
def test_actors_that_the_study_names_fit_into_half_of_the_cpus(cpus: int, actors: int) -> None:
    plan = divide_cluster([Node(cpus), Node(1)], Resources(actors=actors))
    assert plan.actors == actors
    assert plan.cpus * actors <= (cpus + 1) / 2


def test_bug_a_part_of_a_gpu_is_not_divided_between_two() -> None:
    assert divide_cluster([Node(32, 4)], Resources(gpus_per_actor=0.3)).actors == 12


def test_bug_an_actor_of_two_gpus_needs_them_on_one_machine() -> None:
    with pytest.raises(StudyError, match=r"an actor takes 2 GPU, and no machine of the cluster has as much"):
        divide_cluster([Node(8, 1), Node(8, 1)], Resources(gpus_per_actor=2))
