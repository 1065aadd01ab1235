"""Actors and training steps that are timed: what is measured of a little work, and what is kept of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch

from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import InputError, StudyError
from instsel.evaluation import scoring
from instsel.gradients import engine
from instsel.models import hidden_states
from instsel.models.embeddings import Encoder
from instsel.pipeline.evaluate import evaluation_probe
from instsel.pipeline.features import features_probe
from instsel.pipeline.probes import training_probe
from instsel.pipeline.registry import load_stages
from instsel.planner import profile, timing
from instsel.planner.cluster import TargetCluster, parse_cluster
from instsel.planner.profile import ClusterProfiler, Processes
from instsel.planner.rates import Rate, Rates
from instsel.planner.timing import ActorProcess, Timed, TrainingProcess, scale_step
from instsel.runtime.training_group import train_settings
from instsel.study.estimates import Counts, RowSet, Throughput
from instsel.training.schedule import epoch_order

MESSAGES = [{"role": "user", "content": "a train"}, {"role": "assistant", "content": "to Oslo"}]
ROW = {"input_ids": [3, 4, 5, 6], "labels": [-100, 4, 5, 6], "tokens": 4, "answer_tokens": 3}
ROWS = [[ROW] * 2]
PROMPTS = [[{"messages": MESSAGES, "tokens": tokens, "answer_tokens": 3} for tokens in (9, 40)]]


def probe_of(stage, config):
    """What the stage is timed on."""
    if stage == "features":
        return features_probe(config)
    if stage == "evaluate":
        return evaluation_probe(config)
    return next(each for each in load_stages() if each.name == stage).probe(config)


@pytest.fixture
def actor_process(tiny_study):
    """`actor_process(stage, **parts)`: a process with the stage's actor, for a study with such parts."""
    processes = []

    def start(stage, **parts):
        config = parse_study(tiny_study(**parts), "test")
        processes.append(ActorProcess(1, probe_of(stage, config), config.lora))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


@pytest.mark.parametrize(
    ("stage", "tokens", "width"),
    [
        ("features", 16, 0),
        ("evaluate", 16, 0),
        # Of the rows, and of their answers alone.
        ("likelihood", 16 + 16, 0),
        ("hidden_states", 16, 64),
    ],
)
def test_an_actor_counts_the_padded_tokens_that_it_was_timed_with(actor_process, stage, tokens, width):
    timed = actor_process(stage).time(ROWS, [*ROWS, *ROWS])
    assert (timed.exhausted, timed.batches, timed.tokens) == (False, 2, tokens)
    assert (timed.token_budget, timed.width) == (0, width)
    assert min(timed.first, timed.seconds, timed.memory, timed.machine) > 0


def test_an_encoder_counts_prompts_by_the_tokens_of_the_study(actor_process, tiny_encoder):
    process = actor_process("embed", embedding={"encoder": str(tiny_encoder), "max_length": 16})
    timed = process.time(PROMPTS, [*PROMPTS, *PROMPTS])
    assert (timed.batches, timed.tokens, timed.width) == (2, 2 * 2 * 16, 32)


def test_what_an_actor_writes_is_removed_with_it(actor_process, monkeypatch, tmp_path):
    monkeypatch.setattr(timing.tempfile, "tempdir", str(tmp_path))
    process = actor_process("features")
    process.time(ROWS, ROWS)
    (scratch,) = tmp_path.glob("instsel-plan-*")
    assert (scratch / "checkpoint").is_dir()
    assert list(scratch.rglob("*.arrow"))
    process.close()
    assert not scratch.exists()


def test_an_actor_that_runs_out_of_memory_says_so(actor_process, monkeypatch):
    def run_out(*arguments, **named):
        raise torch.OutOfMemoryError("no memory")

    process = actor_process("evaluate")
    monkeypatch.setattr(scoring, "heldout_losses", run_out)
    assert process.time(ROWS, ROWS).exhausted
    monkeypatch.setattr(scoring, "heldout_losses", lambda *arguments, **named: [].pop())
    with pytest.raises(IndexError):
        process.time(ROWS, ROWS)


def test_features_that_only_fit_in_smaller_batches_say_which(actor_process, monkeypatch):
    class Lowered:
        token_budget, recompute = 128, False

        def __init__(self, model, *, sketch, **settings):
            self.dim = sketch.dim

        def features(self, rows):
            return np.ones((len(rows), self.dim), dtype=np.float32)

    monkeypatch.setattr(engine, "GradientEngine", Lowered)
    timed = actor_process("features").time(ROWS, ROWS)
    assert (timed.exhausted, timed.token_budget) == (False, 128)


@pytest.mark.parametrize("stage", ["evaluate", "likelihood", "hidden_states"])
def test_forward_passes_that_only_fit_in_smaller_batches_say_which(actor_process, monkeypatch, stage):
    def narrow(whole):
        def call(rows, *, device):
            if len(rows) > 1:
                raise torch.OutOfMemoryError("no memory")
            return whole(rows, device=device)

        return call

    for module in (scoring, hidden_states):
        monkeypatch.setattr(module, "collate", narrow(module.collate))
    timed = actor_process(stage).time(ROWS, ROWS)
    assert (timed.exhausted, timed.token_budget) == (False, 4)


def test_prompts_that_only_fit_in_smaller_batches_say_which(actor_process, tiny_encoder, monkeypatch):
    whole = Encoder._batch

    def narrow(encoder, rows):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("no memory")
        return whole(encoder, rows)

    monkeypatch.setattr(Encoder, "_batch", narrow)
    process = actor_process("embed", embedding={"encoder": str(tiny_encoder), "max_length": 16})
    timed = process.time(PROMPTS, PROMPTS)
    assert not timed.exhausted
    assert 0 < timed.token_budget <= 16


def test_batches_end_when_enough_is_known(monkeypatch):
    clock = iter([0.0, 2.0, 15.0, 30.0, 31.0])
    monkeypatch.setattr(timing.time, "monotonic", lambda: next(clock))
    calls = []
    timed = timing.time_calls(calls.append, ROWS, ROWS * 9, lambda rows: 8)
    assert len(calls) == 3
    assert (timed.first, timed.seconds, timed.tokens, timed.batches) == (2.0, 29.0, 16, 2)


def settings_of(config, workers=1):
    return train_settings(config, config.finetune, workers)


def test_workers_that_are_timed_have_the_part_of_a_step_that_they_will_have(tiny_study):
    config = parse_study(tiny_study(finetune={"batch_size": 64, "micro_batch_size": 2}), "test")
    settings = settings_of(config, 16)
    assert scale_step(settings, 16, 16) is settings
    assert scale_step(settings, 4, 16).batch_size == 16
    assert scale_step(settings, 1, 200).batch_size == 1


@pytest.fixture
def training(tiny_study):
    config = parse_study(tiny_study(finetune={"batch_size": 2, "epochs": 3}), "test")
    return TrainingProcess(1, config.model, config.lora), settings_of(config)


def test_the_first_step_is_on_the_rows_to_warm_up_with_and_its_time_is_that_of_the_start(training, monkeypatch):
    process, settings = training
    clock = iter([10.0, 13.0, 14.0, 16.0])
    monkeypatch.setattr(timing.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(timing.dist, "get_world_size", lambda: 2)

    def train(model, rows, settings, loss, *, on_step, on_epoch):
        assert settings.epochs == 1
        order = epoch_order(len(rows), 1, settings.seed)
        assert [rows[index] for index in order] == ["w", "x", 1, 2, 3, 4]
        for tokens in (100, 30, 50):
            on_step(SimpleNamespace(tokens=tokens))
        on_epoch(None, None)

    monkeypatch.setattr(timing, "train", train)
    timed = process.train(settings, ["w", "x"], [1, 2, 3, 4])
    # Of the two workers' tokens each did half.
    assert (timed.first, timed.seconds, timed.tokens, timed.batches) == (3.0, 3.0, 40.0, 2)


def test_a_training_that_runs_out_of_memory_says_so(training, monkeypatch):
    process, settings = training

    def run_out(*arguments, **named):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(timing, "train", run_out)
    assert process.train(settings, [ROW] * 2, [ROW] * 2).exhausted
    monkeypatch.setattr(timing, "train", lambda *arguments, **named: [].pop())
    with pytest.raises(IndexError):
        process.train(settings, [ROW] * 2, [ROW] * 2)


def test_a_worker_takes_steps_and_leaves_a_checkpoint_to_be_measured(tiny_study, ray_session):
    config = parse_study(tiny_study(finetune={"batch_size": 2, "epochs": 3}), "test")
    with profile._started(TrainingProcess, Processes(1, 1, 0, 1), 1, (config.model, config.lora)) as group:
        (process,) = group.processes
        ray.get(process.join.remote(0, 1, ray.get(process.address.remote())))
        timed = ray.get(process.train.remote(settings_of(config), [ROW] * 2, [ROW] * 4))
    assert (timed.exhausted, timed.batches, timed.tokens) == (False, 2, 16)
    assert min(timed.first, timed.seconds, timed.checkpoint_bytes, group.seconds) > 0


MEASURED = Throughput(1.0, 100.0, memory=1, processes=1, together=1, device="NVIDIA H100", step_rows=4.0)


def profiler_of(config, **target):
    """A profiler of a pool of 50 rows."""
    counts = Counts([RowSet(50, 1, np.full(50, 20), np.full(50, 5))], [], [], 5, read_seconds=0.5)
    sample = SimpleNamespace(counts=lambda config: counts)
    return ClusterProfiler(config, sample, None, Terminal(), TargetCluster(**target))


def test_trainings_with_steps_of_the_same_sizes_are_timed_once(tiny_study, monkeypatch):
    config = parse_study(tiny_study(finetune={"batch_size": 8}, warmup={"batch_size": 8, "epochs": 2}), "test")
    sizes = []
    monkeypatch.setattr(
        ClusterProfiler, "_time_training", lambda self, training: sizes.append(training.batch_size) or MEASURED
    )
    profiler = profiler_of(config)
    for name, part in (("warmup", config.warmup), ("finetune", config.finetune), ("warmup", config.warmup)):
        assert profiler.training(training_probe(name, config, part)) is MEASURED
    other = config.finetune.model_copy(update={"batch_size": 4})
    profiler.training(training_probe("interaction", config, other))
    assert sizes == [8, 4]
    assert list(profiler.rates) == ["warmup", "finetune", "interaction"]


def test_batches_are_timed_once_a_stage(tiny_study, monkeypatch):
    config = parse_study(tiny_study(), "test")
    timed = []
    monkeypatch.setattr(ClusterProfiler, "_time_batches", lambda self, probe: timed.append(probe.name) or MEASURED)
    profiler = profiler_of(config)
    for probe in (features_probe(config), evaluation_probe(config), features_probe(config)):
        profiler.batches(probe)
    assert timed == ["features", "evaluate"]


def test_a_rate_that_was_measured_before_is_not_measured_again(tiny_study):
    config = parse_study(tiny_study(resources={}), "test")
    probe = features_probe(config)
    rates = Rates({"features": Rate(dict(probe.dependencies()), MEASURED)}, 20.0)
    profiler = profiler_of(config, cluster=parse_cluster("4xH100"), rates=rates)
    assert profiler.batches(probe).processes == 4
    assert profiler.rates["features"].measured is MEASURED
    with pytest.raises(InputError, match="--rates: finetune was not measured"):
        profiler.training(training_probe("finetune", config, config.finetune))


def test_all_rates_are_measured_before_it_is_said_that_they_are_of_another_device(tiny_study, monkeypatch):
    config = parse_study(tiny_study(resources={}), "test")
    monkeypatch.setattr(ClusterProfiler, "_time_batches", lambda self, probe: MEASURED)
    profiler = profiler_of(config, cluster=parse_cluster("4xA100"))
    for probe in (features_probe(config), evaluation_probe(config)):
        assert profiler.batches(probe) is MEASURED
    assert "rates of A100 are needed, here there is NVIDIA H100" in str(profiler.failure)
    assert list(profiler.rates) == ["features", "evaluate"]


def test_a_selection_is_the_choice_and_the_reading_of_the_pool(tiny_study, monkeypatch):
    config = parse_study(tiny_study(features={"dim": 17}), "test")
    shapes = []
    monkeypatch.setattr(
        profile, "selector_seconds", lambda method, shape, unit: shapes.append((method.name, shape, unit)) or 3.0
    )
    profiler = profiler_of(config)
    method = config.selection.methods[0]
    rate = profiler.selection(method, columns=9, damping=0.1, width=48)
    assert rate.seconds(50) == 3.0 + 25
    assert rate.memory == profiler._driver_memory + method.cost(shapes[0][1]).memory
    (name, shape, unit), *_ = shapes
    assert (name, unit, shape.rows, shape.chosen, shape.columns) == (method.name, config.selection.unit, 50, 5, 9)
    assert (shape.checkpoints, shape.dim, shape.embedding, shape.hidden, shape.damping) == (2, 17, 48, 48, 0.1)


def test_a_function_is_run_in_a_process_of_this_cluster(tiny_study, ray_session):
    run = profiler_of(parse_study(tiny_study(), "test")).run(divmod, 17, 5)
    assert (run.value, run.processes, run.together) == ((3, 2), 2, 2)
    assert min(run.start, run.memory) > 0


def test_a_cluster_without_capacity_is_named_and_not_waited_for_without_end(ray_session, monkeypatch):
    monkeypatch.setattr(profile, "CAPACITY_SECONDS", 1)
    full = pytest.raises(StudyError, match="no room on the cluster for 3 processes of 1 CPU and 0 GPU within 1 s")
    with full, profile._started(TrainingProcess, Processes(3, 1.0, 0.0, 1), 3, ()):
        pass


class Waiting:
    """Runs out of memory, or waits for what never comes."""

    def __init__(self, threads):
        pass

    def ready(self):
        pass

    def close(self):
        pass

    def time(self, exhausted):
        while not exhausted:
            profile.time.sleep(1)
        return Timed.out_of_memory(MemoryError())


def test_processes_that_wait_for_another_that_ran_out_of_memory_are_not_waited_for(ray_session, monkeypatch):
    monkeypatch.setattr(profile, "CLOSE_SECONDS", 1)
    with profile._started(Waiting, Processes(2, 0.5, 0, 1), 2, ()) as group:
        results = profile._results([process.time.remote(rank == 1) for rank, process in enumerate(group.processes)])
    assert [timed.exhausted for timed in results] == [True]
