"""Stage *select*: a method picks its rows on the driver; a task fetches them and writes them down."""

from typing import Any

import ray

from instsel.choice.budget import Budget
from instsel.choice.constrained import MIXTURE, mixture_table
from instsel.choice.output import write_rows
from instsel.choice.picks import PickRequest, make_picks
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.study.folder import StageFolder
from instsel.study.graph import Run
from instsel.study.reader import StudyReader


def run(
    study: StudyConfig, stage: StageFolder, by: Run, prepare: StageFolder, reader: StudyReader, terminal: Terminal
) -> None:
    """Make the selection of a run and write it as a table and as rows to train on."""
    stage.start()
    part = study.selection
    budget = Budget(part.budget, part.unit)
    request = PickRequest(by.method, by.seed, budget, part.attribution, part.damping, study.mixture)
    picks = make_picks(request, reader, terminal.say)
    # Anywhere in the cluster, also where a trial of a search selects: its own place has room for nothing.
    writing: Any = ray.remote(write_rows).options(scheduling_strategy="DEFAULT")
    result = ray.get(writing.remote(prepare.folder, stage.folder, picks))
    if picks.mixture is not None:
        stage.folder.write_table(MIXTURE, mixture_table(picks.mixture))
    terminal.say(f"{stage.name.partition('/')[2]}: {result.rows} rows, {result.tokens} tokens")
    stage.commit(result.to_dict())
