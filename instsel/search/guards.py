"""Guards as a constraint of searches: a trial that harms one beyond its margin is out."""

import numpy as np

from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.accuracy import score_items
from instsel.pipeline.evaluate import last_adapter
from instsel.report.accuracy import POINTS, judge_guards
from instsel.stats import Bootstrap
from instsel.study.folder import ATTEMPTS
from instsel.study.runs import BASE, Run
from instsel.study.stage import RunContext

GUARDS = "guards"
"""Beginning of the names of folders of scores: in that of searches the base model's, in that of a trial its own."""


def scored_guards(config: StudyConfig) -> list[str]:
    """Return the guards that a search can score.

    Raises:
        InputError: there is none.
    """
    names = [name for name in config.guards if name in config.scored]
    if not names:
        raise InputError("search.guards: the study has no guard with `task` or `test`; give one, or remove the key")
    return names


def score_base(context: RunContext) -> None:
    """Score the base model on the guards, before any trial; say which guards are no constraint."""
    names = scored_guards(context.config)
    if others := [name for name in context.config.guards if name not in names]:
        context.console.say(
            f"search.guards: no trial is scored on {', '.join(others)}, which evaluation.command scores"
        )
    score_items(context, names, {BASE: _base(context)}, {BASE: None})
    (_base(context) / ATTEMPTS).remove()


def harmed_guards(context: RunContext, run: Run, folder: Folder) -> list[str]:
    """Score a trial's model on the guards, and say which it harms, a sentence each.

    Args:
        context: of the trial's study.
        run: of the trial.
        folder: of the trial.
    """
    names, config = scored_guards(context.config), context.config
    out = folder / _name(context) / run.name
    score_items(context, names, {run.name: out}, {run.name: last_adapter(context, run.name)})
    (out / ATTEMPTS).remove()
    values = {
        model: {name: _correct(scores, name) for name in names}
        for model, scores in ((BASE, _base(context)), (run.name, out))
    }
    margins = {name: config.guards[name].margin / POINTS for name in names}
    evaluation = config.evaluation
    bootstrap = Bootstrap(evaluation.bootstrap_samples, evaluation.confidence, evaluation.seed)
    judged = judge_guards(values, {model: [model] for model in values}, margins, bootstrap)[run.name]
    return [
        f"guard {name}: {POINTS * facts.difference.difference:+.1f} points, worse than its margin of "
        f"{POINTS * margins[name]:g}"
        for name, facts in judged.items()
        if facts.judgement == "worse"
    ]


def _base(context: RunContext) -> Folder:
    return context.folder / "search" / _name(context) / BASE


def _name(context: RunContext) -> str:
    """Return the name of a folder of scores, by all that these depend on beside an adapter."""
    return f"{GUARDS}-{context.stage('accuracy', BASE).fingerprint[:12]}"


def _correct(folder: Folder, name: str) -> np.ndarray:
    values: np.ndarray = folder.read_table(f"{name}.parquet", ["correct"])["correct"].to_numpy()
    return values
