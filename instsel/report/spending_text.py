"""The part of report.md that shows what methods reached for what they cost."""

from instsel.report.facts import StudyFacts
from instsel.report.headline import value_text
from instsel.report.markdown import NONE, markdown_table

NOTE = (
    "Costs in tokens of a training step, which takes 4 FLOP a parameter with LoRA; a forward pass takes half of it. "
    "Products of gradients and the choice itself are not counted, nor is the encoder of prompts. What several "
    "selections share counts for each. Methods that no other beats for less are marked."
)


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
