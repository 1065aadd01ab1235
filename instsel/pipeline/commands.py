"""Run the user's own evaluation on every model of a study: `evaluation.command`."""

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from instsel.config.study import StudyConfig
from instsel.evaluation.command import read_items, run_command
from instsel.io.store import Folder
from instsel.study.folder import StageFolder
from instsel.study.stage import Cost, RunContext


def run_commands(
    context: RunContext,
    folders: Mapping[str, StageFolder],
    adapters: Mapping[str, Folder | None],
    costs: dict[str, Cost],
) -> None:
    """Run the command for each model whose items are missing, one after another, with the GPUs of a model actor."""
    import ray

    plan, names = context.resources, context.config.commanded
    scoring: Any = ray.remote(max_calls=1, **plan.model_options)(_run_command)
    missing = [key for key, stage in folders.items() if not all(stage.folder.exists(f"{n}.parquet") for n in names)]
    with context.console.bar("evaluation.command", len(missing), "models") as bar:
        for key in missing:
            started = time.monotonic()
            ray.get(scoring.remote(context.config, adapters[key], folders[key].folder))
            costs[key] = added_cost(costs[key], time.monotonic() - started)
            bar.advance(1)


def _run_command(config: StudyConfig, adapter: Folder | None, out: Folder) -> None:
    """Run the user's command for a model and keep its items."""
    from instsel.models.loading import source_of

    command = config.evaluation.command
    if command is None:
        raise ValueError("the study has no command")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        here = Path(scratch)
        folder = "" if adapter is None else str(stack.enter_context(adapter.local()))
        model, log = source_of(config.model.name, config.model.revision, weights=True).name, here / "command.log"
        merged = model
        if folder and "{merged}" in command.run:
            merged = str(here / "merged")
            _merge(config, folder, merged)
        values = {"model": model, "adapter": folder, "merged": merged, "out": str(here / "items.jsonl")}
        try:
            run_command(command.run, values, log)
        finally:
            if log.exists():
                out.write("command.log", log.read_bytes())
        for name, table in read_items(here / "items.jsonl", command.scores).items():
            out.write_json(f"{name}.json", {"command": command.run})
            out.write_table(f"{name}.parquet", table)


def _merge(config: StudyConfig, adapter: str, out: str) -> None:
    """Save the model with an adapter merged into it, and its tokenizer."""
    from instsel.models.loading import attach_adapter, load_base, load_tokenizer

    adapted: Any = attach_adapter(load_base(config.model), adapter)
    adapted.merge_and_unload().save_pretrained(out)
    load_tokenizer(config.model).save_pretrained(out)


def added_cost(cost: Cost, seconds: float, peak_memory: int = 0) -> Cost:
    """Return a cost with more seconds, and the larger peak memory."""
    return Cost(seconds=(cost.seconds or 0.0) + seconds, peak_memory=max(cost.peak_memory, peak_memory))
