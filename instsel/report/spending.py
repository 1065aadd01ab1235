"""What each method cost, selection and training on one axis, beside what it reached, and the table in report.md."""

from collections.abc import Mapping, Sequence

import numpy as np

from instsel.choice.spending import spent_tokens
from instsel.errors import InputError
from instsel.report.compared import Compared
from instsel.report.facts import SpendingFacts, StudyFacts
from instsel.report.headline import value_text
from instsel.report.markdown import BASE, NONE, markdown_table
from instsel.report.record import StudyRecord
from instsel.stats import MEAN
from instsel.study.attribution_specs import contrast_stages
from instsel.study.results import TrainingResult
from instsel.study.runs import Run

FLOP_A_STEP = 4
"""FLOP of a LoRA training step for each parameter and token: forward 2, gradients of activations 2."""

NOTE = (
    "Costs in tokens of a training step, which takes 4 FLOP a parameter with LoRA; a forward pass takes half of it. "
    "Products of gradients and the choice itself are not counted, nor is the encoder of prompts. What several "
    "selections share counts for each. Methods that no other beats for less are marked."
)


def spending(record: StudyRecord, comparisons: Sequence[Compared]) -> dict[str, SpendingFacts]:
    """Return what every trained method cost, a run of it on average.

    Args:
        record: of the study.
        comparisons: by the same measure, one a budget: accuracies where there are some, else losses.
    """
    runs = {name: names for results in comparisons for name, names in results.runs.items() if name != BASE}
    means = {name: row[MEAN] for results in comparisons for name, row in results.values.items() if name in runs}
    by_method = {name: _of_method(record, [record.runs[run] for run in runs[name]]) for name in means}
    known = {name: facts for name, facts in by_method.items() if facts is not None}
    values = {name: means[name] for name in known}
    best = pareto({name: (facts.tokens, values[name]) for name, facts in known.items()}, comparisons[0])
    return {
        name: facts.model_copy(update={"value": values[name], "pareto": name in best}) for name, facts in known.items()
    }


def spending_text(facts: StudyFacts) -> list[str]:
    """Write what methods cost beside what they reached; nothing where no method is trained."""
    if not facts.spending:
        return []
    results = facts.primary
    rows = [
        [
            f"**{name}**" if each.pareto else name,
            value_text(each.value, results.measure),
            f"{each.selection:,.0f}",
            f"{each.training:,.0f}",
            NONE if each.flops is None else f"{each.flops / 1e12:,.1f}",
            f"{each.selection_seconds:,.1f}",
            f"{each.training_seconds:,.1f}",
        ]
        for name, each in facts.spending.items()
    ]
    header = ["method", results.measure.name, "selection", "training", "TFLOP", "seconds to select", "to train"]
    return ["## What methods reached for what they cost\n", markdown_table(header, rows), NOTE]


def pareto(points: Mapping[str, tuple[float, float]], results: Compared) -> list[str]:
    """Name the points, (cost, value), that no other one beats in one of the two and equals in the other."""
    sign = -1 if results.measure.higher_is_better else 1
    costs = {name: (cost, sign * value) for name, (cost, value) in points.items()}
    return [
        name
        for name, point in costs.items()
        if not any(other[0] <= point[0] and other[1] <= point[1] and other != point for other in costs.values())
    ]


def _of_method(record: StudyRecord, runs: list[Run]) -> SpendingFacts | None:
    """Return a method's costs, its value still open; None where a stage of it is not finished."""
    method, stages = runs[0].method, record.manifests
    trainings = [stages.get(f"finetune/{run.name}") for run in runs]
    if record.prepared is None or not all(trainings):
        return None
    part = record.config.selection
    spec = method.attribution_spec(part.attribution, part.damping)
    extra = [stage.name for stage in contrast_stages(spec)]
    try:
        passes = sum(spent_tokens(method, record.reader).values())
    except ValueError:
        # It reads nothing that the model says.
        passes = 0.0
    except InputError:
        return None
    passes += sum(stages[name]["cost"]["tokens"] for name in extra if name in stages)
    results = [TrainingResult.model_validate(manifest["result"]) for manifest in trainings if manifest is not None]
    seconds = [manifest["cost"]["seconds"] for manifest in trainings if manifest is not None]
    tokens = float(np.mean([result.tokens for result in results]))
    parameters = record.prepared.get("parameters")
    return SpendingFacts(
        selection=passes,
        training=tokens,
        flops=None if parameters is None else FLOP_A_STEP * parameters * (passes + tokens),
        selection_seconds=_selection_seconds(record, runs[0], extra),
        training_seconds=float(np.mean(seconds)),
    )


def _selection_seconds(record: StudyRecord, run: Run, extra: list[str]) -> float:
    """Return the seconds of a selection and of all stages before it but *prepare*."""
    waiting, seen = [f"select/{run.selection}", *extra], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen and name != "prepare" and name in record.manifests:
            seen.add(name)
            waiting += record.manifests[name]["parents"]
    # In their order: that of a set differs from process to process, and with it the last digits of the sum.
    stages = [name for name in record.manifests if name in seen and name != "benchmarks"]
    return sum(record.manifests[name]["cost"]["seconds"] for name in stages)
