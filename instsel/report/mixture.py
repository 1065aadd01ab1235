"""What a report says of categories: how they help or harm each other, the mixture that follows, and the levels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from instsel.mixture.dependency import LEVELS
from instsel.mixture.settings import OTHER
from instsel.printable import inline
from instsel.report.markdown import decimal, markdown_table

# Below this a constraint holds nothing back that anyone would notice.
FELT = 1e-6
SHOWN_BOUNDS = 5


def mixture_sections(summary: Mapping[str, Any]) -> list[str]:
    """Sections of a report on categories; empty where the study has none.

    Args:
        summary: `interaction`, by estimator; `agreement`, by estimator compared; `mixtures`, by selection.
    """
    if not summary["interaction"]:
        return []
    parts = ["## How categories help each other\n", _sizes(summary["categories"])]
    for estimator, found in summary["interaction"].items():
        parts += [f"### By {estimator}\n", _gamma(found), *_unknown(found)]
    parts += [agreement_in_words(name, found) for name, found in summary["agreement"].items()]
    for found in summary["interaction"].values():
        parts += _dependencies(found.get("dependency"))
    if summary["mixtures"]:
        parts.append("## Mixture\n")
        for name, told in summary["mixtures"].items():
            parts += [f"### {name}\n", _shares(told), " ".join(duals_in_words(told))]
    return parts


def agreement_in_words(name: str, found: Mapping[str, Any]) -> str:
    """How well two estimates agree, in a sentence.

    Args:
        name: which estimates.
        found: fields of `mixture.agreement.Agreement`, None for what is not known.
    """
    if found["correlation"] is None:
        return f"{name}: too few entries are known by both to compare."
    ends = "" if found["low"] is None else f" [{decimal(found['low'])}, {decimal(found['high'])}]"
    within = "" if found["within"] is None else f"; {decimal(found['within'])} on average within an evaluated category"
    return (
        f"{name}: Spearman's rank correlation {decimal(found['correlation'])}{ends} over {found['entries']} pairs of "
        f"categories{within}."
    )


def duals_in_words(told: Mapping[str, Any], show: Callable[[str], str] = inline) -> list[str]:
    """What the constraints of a mixture cost, a sentence each.

    Args:
        told: objective, start_objective, categories and duals, as `choice.mixing.Mix.told` has them.
        show: makes a category's name fit to stand in the sentence.
    """
    gain = told["objective"] - told["start_objective"]
    said = [
        f"A row of this mixture is worth {decimal(told['objective'], 4)} rows of what counts, "
        f"{decimal(gain, 4)} more than before."
    ]
    wider = told["duals"]["max_shift"]
    if wider > FELT:
        said.append(f"One more percent of trust region (max_shift) is worth {decimal(wider / 100, 4)}.")
    else:
        said.append("A wider trust region (max_shift) would gain nothing.")
    for name in _felt(told, "upper"):
        gain = decimal(told["duals"]["upper"][name] / 100, 4)
        said.append(f"If the pool had more of {show(name)}, one more percent of it would be worth {gain}.")
    for name in _felt(told, "lower"):
        gain = decimal(told["duals"]["lower"][name] / 100, 4)
        said.append(f"A floor of {show(name)} one percent lower would be worth {gain}.")
    return said


def _felt(told: Mapping[str, Any], bound: str) -> list[str]:
    """Categories that a bound of the user's, or of the pool, holds back, the most first; "other" is held on purpose."""
    duals, categories = told["duals"][bound], told["categories"]
    real = {
        name: own["floor"] > 0 if bound == "lower" else own["rows"] >= own["capacity"]
        for name, own in categories.items()
    }
    felt = [name for name, value in duals.items() if value > FELT and real[name] and name != OTHER]
    return sorted(felt, key=lambda name: -duals[name])[:SHOWN_BOUNDS]


def _sizes(categories: Mapping[str, Mapping[str, int]]) -> str:
    body = [[name, f"{size['rows']:,}", f"{size['tokens']:,}"] for name, size in categories.items()]
    return markdown_table(["category", "rows", "tokens"], body)


def _gamma(found: Mapping[str, Any]) -> str:
    names = found["categories"]
    body = []
    for added, values, errors in zip(names, found["gamma"], found["error"], strict=True):
        cells = [_cell(value, error) for value, error in zip(values, errors, strict=True)]
        body.append([added, *cells])
    note = (
        "What one added row (left) is worth for a category (above), in rows of that category, with standard errors.\n"
    )
    return f"{note}\n{markdown_table(['added', *names], body)}"


def _cell(value: float | None, error: float | None) -> str:
    if value is None:
        return "unknown"
    return decimal(value) if not error else f"{decimal(value)} ± {decimal(error)}"


def _unknown(found: Mapping[str, Any]) -> list[str]:
    if not found["unknown"]:
        return []
    return [f"Unknown: the own rows of {', '.join(map(inline, found['unknown']))} do not clearly help them."]


def _dependencies(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    levels = [
        [level, ", ".join(name for name, own in found["levels"].items() if own == level) or "–"] for level in LEVELS
    ]
    parts = ["## Which category needs which\n", markdown_table(["level", "categories"], levels)]
    if found["needs"]:
        parts.append(
            "; ".join(f"{inline(pair['category'])} needs {inline(pair['needs'])}" for pair in found["needs"]) + "."
        )
    else:
        parts.append("No removal clearly harms another category.")
    return parts + [f"In a round: {', '.join(map(inline, cycle))} need each other." for cycle in found["cycles"]]


def _shares(told: Mapping[str, Any]) -> str:
    body: list[Sequence[str]] = [
        [
            name,
            f"{own['start']:.1%}",
            f"{own['weight']:.1%}",
            f"{own['rows']:,}",
            decimal(own["importance"]),
            decimal(own["worth"], 3),
        ]
        for name, own in told["categories"].items()
    ]
    return markdown_table(["category", "before", "after", "rows", "importance", "worth of a row"], body)
