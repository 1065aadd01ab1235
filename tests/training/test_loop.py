import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from instsel.errors import InputError, StudyError
from instsel.training.checkpoint import trainable
from instsel.training.loop import train
from instsel.training.schedule import epoch_order, learning_rate_at

FILES = ("adapter_model.safetensors", "moments.safetensors")


@pytest.fixture(scope="module")
def lone_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process as the only worker of its group; DeepSpeed remembers the group, so there can only be one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        group = tmp_path_factory.mktemp("group") / "store"
        dist.init_process_group("gloo", init_method=f"file://{group}", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for name in FILES for key, tensor in load_file(folder / name).items()}


def assert_same(one: Path, other: Path) -> None:
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def furthest(one: Path, other: Path) -> float:
    """Largest difference of a tensor from its counterpart, as a share of that one's largest entry."""
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    return max(((left[name] - right[name]).abs().max() / right[name].abs().max()).item() for name in left)


def naive_run(worker: Any, settings: Any, count: int) -> tuple[Any, Any, list[float], list[float]]:
    """The same training by torch alone, one example at a time, with the model's own loss."""
    model, rows = worker.lora_model(), worker.examples(count)
    model.train()
    parameters = list(trainable(model).values())
    adam = torch.optim.AdamW(parameters, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay)
    per_epoch = math.ceil(count / settings.batch_size)
    losses, rates = [], []
    for step in range(settings.epochs * per_epoch):
        epoch, at = divmod(step, per_epoch)
        order = epoch_order(count, epoch + 1, settings.seed).tolist()
        batch = order[at * settings.batch_size : (at + 1) * settings.batch_size]
        of_rows = []
        for row in batch:
            ids, labels = (torch.tensor([rows[row][key]]) for key in ("input_ids", "labels"))
            of_rows.append(model(input_ids=ids, labels=labels).loss)
        loss = torch.stack(of_rows).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        rates.append(
            learning_rate_at(step, settings.epochs * per_epoch, settings.learning_rate, "linear", settings.warmup_ratio)
        )
        adam.param_groups[0]["lr"] = rates[-1]
        adam.step()
        losses += [loss.item()] * len(batch)
    return model, adam, losses, rates


@pytest.mark.parametrize(("stage", "max_grad_norm"), [(0, 0.1), (0, 100.0), (2, 0.1), (2, 100.0), (3, 0.1), (3, 100.0)])
def test_weights_and_moments_are_those_of_torchs_adamw(
    worker, settings, lone_worker, tmp_path: Path, stage, max_grad_norm
):
    # Nine rows in batches of four: the last batch of an epoch holds one. Norms are around 0.5: clipped, and not.
    values = settings(stage=stage, max_grad_norm=max_grad_norm)
    metrics = worker.run(tmp_path, values, count=9)
    model, adam, losses, rates = naive_run(worker, values, 9)
    found = tensors(tmp_path / "epoch-2")
    for name, parameter in trainable(model).items():
        moments = adam.state[parameter]
        expected = {
            name.replace(".default", ""): parameter.detach(),
            f"exp_avg/{name}": moments["exp_avg"],
            f"exp_avg_sq/{name}": moments["exp_avg_sq"],
        }
        for key, tensor in expected.items():
            assert (found[key] - tensor).abs().max() <= 1e-5 * tensor.abs().max(), key
    assert [epoch.loss for epoch in metrics] == pytest.approx([sum(losses[:9]) / 9, sum(losses[9:]) / 9], rel=1e-5)
    state = json.loads((tmp_path / "epoch-2" / "checkpoint.json").read_text())
    assert (state["epoch"], state["step"]) == (2, 6)
    assert state["learning_rate"] == pytest.approx(sum(rates[3:]) / 3)
    assert metrics[1].tokens == sum(len(row["input_ids"]) for row in worker.examples(9))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_run_ends_with_the_same_weights(worker, settings, lone_worker, tmp_path: Path, stage):
    values = settings(stage=stage, epochs=3, micro_batch_size=2)
    worker.run(tmp_path / "whole", values, dropout=0.2)
    worker.run(tmp_path / "rest", values, resume=tmp_path / "whole" / "epoch-1", dropout=0.2)
    assert not (tmp_path / "rest" / "epoch-1").exists()
    for epoch in ("epoch-2", "epoch-3"):
        assert_same(tmp_path / "rest" / epoch, tmp_path / "whole" / epoch)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_run_resumed_inside_an_epoch_takes_the_rows_that_are_left_and_ends_the_same(
    worker, settings, lone_worker, tmp_path: Path, stage
):
    values = settings(stage=stage, micro_batch_size=2)
    paused = worker.run(tmp_path / "whole", values, order=PASSES, pause_after=[1, 5, 6], dropout=0.2)
    rest = worker.run(tmp_path / "rest", values, order=PASSES, resume=tmp_path / "whole" / "step-5", dropout=0.2)
    # After the third step of each epoch comes its own checkpoint.
    assert sorted(path.name for path in (tmp_path / "whole").glob("step-*")) == ["step-1", "step-5"]
    assert steps_seen(tmp_path / "whole", 1)[5:] == steps_seen(tmp_path / "rest", 1)
    assert_same(tmp_path / "rest" / "epoch-2", tmp_path / "whole" / "epoch-2")
    assert [replace(one, seconds=0) for one in rest] == [replace(one, seconds=0) for one in paused[1:]]


def test_a_finished_run_has_nothing_left_to_do(worker, settings, lone_worker, tmp_path: Path):
    worker.run(tmp_path, settings(epochs=1))
    assert worker.run(tmp_path, settings(epochs=1), resume=tmp_path / "epoch-1") == []


def test_micro_batches_change_nothing_but_rounding(worker, settings, lone_worker, tmp_path: Path):
    worker.run(tmp_path / "one", settings(micro_batch_size=1))
    worker.run(tmp_path / "four", settings(micro_batch_size=4))
    assert furthest(tmp_path / "one" / "epoch-2", tmp_path / "four" / "epoch-2") < 1e-4


def test_a_training_goes_on_with_smaller_micro_batches(worker, settings, lone_worker, tmp_path: Path):
    worker.run(tmp_path / "whole", settings(micro_batch_size=4), pause_after=[5])
    worker.run(tmp_path / "rest", settings(micro_batch_size=1), resume=tmp_path / "whole" / "step-5")
    assert furthest(tmp_path / "rest" / "epoch-2", tmp_path / "whole" / "epoch-2") < 1e-4


def test_seed_and_dropout_change_the_result(worker, settings, lone_worker, tmp_path: Path):
    worker.run(tmp_path / "a", settings(epochs=1))
    worker.run(tmp_path / "b", settings(epochs=1, seed=1))
    worker.run(tmp_path / "c", settings(epochs=1), dropout=0.2)
    for other in ("b", "c"):
        assert furthest(tmp_path / "a" / "epoch-1", tmp_path / other / "epoch-1") > 1e-3


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("bf16", ["auto", True])
def test_bfloat16_learns_like_float32_and_keeps_its_state_in_float32(
    worker, settings, lone_worker, tmp_path: Path, stage, bf16
):
    exact = worker.run(tmp_path / "exact", settings())
    json_file = {"bf16": {"enabled": bf16}, "zero_optimization": {"stage": stage}}
    low = settings(dtype="bfloat16", deepspeed=json_file)
    rounded = worker.run(tmp_path / "low", low, dtype="bfloat16")
    assert [epoch.loss for epoch in rounded] == pytest.approx([epoch.loss for epoch in exact], rel=5e-3)
    saved = tensors(tmp_path / "low" / "epoch-2")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    # More than bfloat16 holds.
    assert any((tensor != tensor.bfloat16().float()).any() for name, tensor in saved.items() if "exp_avg" not in name)
    worker.run(tmp_path / "rest", low, resume=tmp_path / "low" / "epoch-1", dtype="bfloat16")
    assert_same(tmp_path / "rest" / "epoch-2", tmp_path / "low" / "epoch-2")


@pytest.mark.process
def test_two_workers_learn_what_one_does(worker, settings, lone_worker, tmp_path: Path):
    # The last batch of an epoch has one row: the second worker has none, and still takes part.
    jobs = [
        {"settings": asdict(settings(stage=0)), "out": str(tmp_path / "zero-0")},
        {"settings": asdict(settings(stage=2)), "out": str(tmp_path / "zero-2")},
        {"settings": asdict(settings(stage=3)), "out": str(tmp_path / "zero-3")},
    ]
    jobs = [{**job, "pause_after": [4]} for job in jobs]
    for where in ("epoch-1", "step-4"):
        jobs += [{**job, "out": f"{job['out']}-{where}", "resume": f"{job['out']}/{where}"} for job in jobs[1:3]]
    together(tmp_path, jobs)
    worker.run(tmp_path / "alone", settings())
    for name in ("zero-0", "zero-2", "zero-3"):
        for epoch in ("epoch-1", "epoch-2"):
            assert furthest(tmp_path / name / epoch, tmp_path / "alone" / epoch) < 1e-4
    for name in ("zero-2-epoch-1", "zero-3-epoch-1", "zero-2-step-4", "zero-3-step-4"):
        assert_same(tmp_path / name / "epoch-2", tmp_path / name[:6] / "epoch-2")
    # A checkpoint of two workers under ZeRO 3 is one for a single worker without ZeRO as well.
    worker.run(tmp_path / "other", settings(stage=0), resume=tmp_path / "zero-3" / "epoch-1")
    assert furthest(tmp_path / "other" / "epoch-2", tmp_path / "alone" / "epoch-2") < 1e-4


@pytest.mark.process
@pytest.mark.parametrize("second", ["epoch-2", "step-4", "none"])
def test_fault_05_workers_that_see_other_checkpoints_end_with_an_error(worker, settings, tmp_path: Path, second: str):
    """They trained on mixed batches, and the last of them waited for ever."""
    job = {"settings": asdict(settings(stage=0, epochs=3))}
    together(tmp_path, [{**job, "out": str(tmp_path / "whole"), "pause_after": [4]}])
    (tmp_path / "again").mkdir()
    resume = [str(tmp_path / "whole" / name) for name in ("epoch-1", second)]
    ended = started(tmp_path / "again", [{**job, "out": str(tmp_path / "mixed"), "resume": resume}])
    for returncode, told in ended:
        assert returncode != 0
        assert "do not resume from the same checkpoint" in told
        assert "worker 0 step 3 after epoch 1, worker 1 " in told
    assert not (tmp_path / "mixed").exists()


def together(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Have two worker processes do the jobs."""
    for returncode, told in started(folder, jobs):
        assert returncode == 0, told


def started(folder: Path, jobs: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Have two worker processes start the jobs; return how they ended, and their last words."""
    job_file = folder / "jobs.json"
    job_file.write_text(json.dumps(jobs))
    script = str(Path(__file__).with_name("worker.py"))
    commands = [[sys.executable, script, str(rank), "2", str(job_file)] for rank in range(2)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        return [(process.wait(240), told) for process in running for _, told in [process.communicate(timeout=240)]]
    finally:
        for process in running:
            process.kill()


PASSES = [[8, 7, 6, 5, 4, 3, 2, 1, 0], [0, 2, 4, 6, 8, 1, 3, 5, 7]]
ORDER = [[7, 6, 5, 4, 3, 2, 1, 0], [0, 2, 4, 6, 1, 3, 5, 7]]


def steps_seen(folder: Path, workers: int) -> list[list[int]]:
    """The rows of each step, over all workers."""
    logs = [json.loads((folder / f"steps-{rank}.json").read_text()) for rank in range(workers)]
    return [sorted(row for log in logs for row in log[step]) for step in range(len(logs[0]))]


@pytest.mark.process
def test_rows_come_in_the_order_that_is_given_whatever_the_workers(worker, settings, lone_worker, tmp_path: Path):
    job = {"settings": asdict(settings()), "out": str(tmp_path / "two"), "count": 8, "order": ORDER}
    together(tmp_path, [job])
    worker.run(tmp_path / "one", settings(), count=8, order=ORDER)
    wanted = [sorted(order[start : start + 4]) for order in ORDER for start in (0, 4)]
    assert steps_seen(tmp_path / "one", 1) == wanted
    assert steps_seen(tmp_path / "two", 2) == wanted
    assert furthest(tmp_path / "two" / "epoch-2", tmp_path / "one" / "epoch-2") < 1e-4


def test_a_run_until_an_epoch_goes_on_to_the_same_weights(worker, settings, lone_worker, tmp_path: Path):
    worker.run(tmp_path / "whole", settings(), count=8, order=ORDER)
    worker.run(tmp_path / "part", settings(), count=8, order=ORDER, until=1)
    assert not (tmp_path / "part" / "epoch-2").exists()
    assert steps_seen(tmp_path / "part", 1) == [sorted(ORDER[0][:4]), sorted(ORDER[0][4:])]
    worker.run(tmp_path / "part", settings(), count=8, order=ORDER, resume=tmp_path / "part" / "epoch-1")
    assert_same(tmp_path / "part" / "epoch-2", tmp_path / "whole" / "epoch-2")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (ORDER[:1], "1 passes, the training 2 epochs"),
        ([ORDER[0], [0, 1, 2]], "pass 2 of the order does not fit"),
        ([ORDER[0], [*ORDER[1][:7], 8]], "pass 2 of the order does not fit a training set of 8 rows"),
    ],
)
def test_an_order_of_another_training_is_refused(worker, settings, lone_worker, tmp_path: Path, order, message):
    with pytest.raises(InputError, match=message):
        worker.run(tmp_path, settings(), count=8, order=order)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_change(worker, settings, lone_worker):
    calls = []

    def third_is_broken(model, rows):
        calls.append(len(rows))
        return worker.losses(model, rows) * (float("nan") if len(calls) == 3 else 1.0)

    reported = []
    with pytest.raises(StudyError, match="loss is nan at step 3 of 6; lower learning_rate"):
        train(
            worker.lora_model(),
            worker.examples(9),
            settings(micro_batch_size=4),
            third_is_broken,
            on_epoch=lambda *_: reported.append("epoch"),
            on_step=lambda step: reported.append((step.number, step.of)),
        )
    assert reported == [(1, 6), (2, 6)]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (0, "training diverged by step 1: .* not finite"),
        (2, "gradient is not finite at step 1 of 1"),
        (3, "gradient is not finite at step 1 of 1"),
    ],
)
def test_a_last_step_that_diverges_is_neither_passed_over_nor_saved(worker, settings, lone_worker, stage, message):
    def steep(model, rows):
        losses = worker.losses(model, rows)
        # Adds nothing to the loss, and an infinite slope.
        return losses + (losses - losses.detach()).sqrt()

    saved = []
    with pytest.raises(StudyError, match=message):
        train(
            worker.lora_model(),
            worker.examples(4),
            settings(stage=stage, epochs=1),
            steep,
            on_epoch=lambda *_: saved.append("epoch"),
            on_step=lambda *_: None,
        )
    assert saved == []


def test_a_configuration_that_deepspeed_refuses_is_the_users_error(worker, settings, lone_worker, tmp_path: Path):
    with pytest.raises(InputError, match=r"deepspeed\.config: DeepSpeed rejects it: .*stagee"):
        worker.run(tmp_path, settings(deepspeed={"zero_optimization": {"stagee": 2}}))


def test_a_checkpoint_of_another_model_is_not_gone_on_from(worker, settings, lone_worker, tmp_path: Path):
    worker.run(tmp_path, settings(epochs=1))
    with pytest.raises(InputError, match="has shape"):
        worker.run(tmp_path, settings(), resume=tmp_path / "epoch-1", rank=8)
