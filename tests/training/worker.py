"""A worker of a run of several, started by a test as a process of its own; tests also call its functions themselves."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from instsel.data.batching import collate
from instsel.models.loss import answer_losses
from instsel.training.loop import StepCheckpoints, train
from instsel.training.schedule import TrainSettings


def lora_model(rank: int = 4, dropout: float = 0.0, dtype: str = "float32") -> Any:
    """A random Llama of two layers with LoRA matrices that are both not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=256,
        use_cache=False,
    )
    base = LlamaForCausalLM(config).to(getattr(torch, dtype))
    lora = LoraConfig(
        r=rank, lora_alpha=8, lora_dropout=dropout, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    return get_peft_model(base, lora)


def examples(count: int) -> list[dict[str, list[int]]]:
    """Rows of 6 to 15 tokens; the first two are no answer."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(6, 16, (count,), generator=generator).tolist()
    rows = [torch.randint(1, 256, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": row, "labels": [-100, -100, *row[2:]]} for row in rows]


def losses(model: Any, rows: Any) -> torch.Tensor:
    return answer_losses(model, collate(rows))


def run(
    out: Path,
    settings: TrainSettings,
    count: int = 9,
    resume: Path | None = None,
    order: list[list[int]] | None = None,
    until: int | None = None,
    pause_after: Sequence[int] = (),
    **model: Any,
) -> list[Any]:
    """Train, keep each epoch's checkpoint as out/epoch-N, and return the epochs' metrics.

    After the optimizer steps `pause_after` there is a checkpoint out/step-N, too.
    With an order, out/steps-RANK.json has the rows that this worker saw in each step.
    """
    seen = []
    steps: list[list[int]] = [[]]
    taken: list[int] = []
    rows = examples(count)

    def logged(network: Any, batch: Any) -> torch.Tensor:
        steps[-1] += [rows.index(row) for row in batch]
        return losses(network, batch)

    def on_epoch(metrics: Any, folder: Path | None) -> None:
        seen.append(metrics)
        if folder is not None:
            shutil.copytree(folder, out / f"epoch-{metrics.epoch}")

    def on_step(step: Any) -> None:
        taken.append(step.number)
        steps.append([])

    def pause(folder: Path, step: int) -> None:
        shutil.copytree(folder, out / f"step-{step}")

    made = lora_model(**model)
    train(
        made,
        rows,
        settings,
        logged,
        on_epoch=on_epoch,
        on_step=on_step,
        step_checkpoints=StepCheckpoints(lambda: taken[-1] in pause_after, pause),
        resume=resume,
        order=None if order is None else [np.array(one) for one in order],
        until=until,
    )
    if order is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"steps-{dist.get_rank()}.json").write_text(json.dumps(steps[:-1]))
    return seen


def main(rank: int, world_size: int, job_file: str) -> None:
    """Join the group and do every job of the file: the arguments of `run`, settings as a dict."""
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{job_file}.group", rank=rank, world_size=world_size)
    for job in json.loads(Path(job_file).read_text(encoding="utf-8")):
        resume = job.pop("resume", None)
        if isinstance(resume, list):
            # A worker that sees other checkpoints than the others.
            resume = resume[rank]
        settings = TrainSettings(**{**job.pop("settings"), "betas": (0.9, 0.999)})
        run(Path(job.pop("out")), settings, resume=Path(resume) if resume else None, **job)
    dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    sys.stdout.flush()
    # Gloo's threads sometimes abort a process that takes its group down while the other one is gone already.
    os._exit(0)
