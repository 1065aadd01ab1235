"""The page itself: sections of one study or several, the charts' script and the template, as one HTML file."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from instsel import __version__
from instsel.console import printable
from instsel.report.markdown import percent
from instsel.report.page.choice import choice_section
from instsel.report.page.cost import cost_section
from instsel.report.page.influence import influence_section
from instsel.report.page.methods import budgets_section, curriculum_section
from instsel.report.page.mixture import mixture_section
from instsel.report.page.overview import interval, verdict_section
from instsel.report.page.parts import Cell, Chart, Section, Table, count, number
from instsel.report.page.reading import Turns, reading_section, refused_section
from instsel.report.page.search import search_section
from instsel.stats import MEAN

MISSING_NAMED = 6


@dataclass(frozen=True)
class Study:
    """One study as the template shows it."""

    key: str
    name: str
    what: str
    warnings: Sequence[str]
    missing: str
    sections: Sequence[Section]


def build_page(studies: Sequence[tuple[Mapping[str, Any], Turns]]) -> bytes:
    """report.html of some studies, UTF-8.

    Nothing of the page runs but two scripts, Plotly's and our own, which the page's policy names by their digests; it
    may load nothing at all. Every text is escaped, and its control signs are spelled out.

    Args:
        studies: facts of each (`facts.gather`), and the texts of the rows that it shows (`facts.reading.texts`).
    """
    shown = [_study(f"s{place}", facts, texts) for place, (facts, texts) in enumerate(studies)]
    charts: list[dict[str, Any]] = []

    def chart_number(chart: Chart) -> int:
        charts.append({"traces": chart.traces, "layout": chart.layout})
        return len(charts) - 1

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["plain"] = lambda text: printable(str(text))
    plotly, script = (_read(package, name) for package, name in _SCRIPTS)
    page = environment.from_string(_read(__package__, "page.html.j2")).render(
        title=" and ".join(dict.fromkeys(study.name for study in shown)),
        studies=shown,
        comparison=_comparison([facts for facts, _ in studies]) if len(studies) > 1 else None,
        css=Markup(_read(__package__, "page.css")),  # noqa: S704
        plotly=Markup(plotly),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hashes=Markup(" ".join(_digest(one) for one in (plotly, script))),  # noqa: S704
        chart_number=chart_number,
        charts=lambda: Markup(embedded(charts)),  # noqa: S704
        version=__version__,
    )
    # A name read from JSON may hold half of a surrogate pair, which UTF-8 cannot write.
    return page.encode("utf-8", "backslashreplace")


def embedded(value: Any) -> str:
    """JSON that can stand within a script element: no sign of it ends the element or starts a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _study(key: str, facts: Mapping[str, Any], texts: Turns) -> Study:
    sections = [
        verdict_section(facts),
        choice_section(facts),
        influence_section(facts),
        budgets_section(facts),
        mixture_section(facts),
        curriculum_section(facts),
        search_section(facts),
        reading_section(facts, texts),
        refused_section(facts),
        cost_section(facts),
    ]
    return Study(
        key,
        facts["study"],
        _what(facts),
        facts["doubts"],
        _missing(facts["missing"]),
        [section for section in sections if section is not None],
    )


def _what(facts: Mapping[str, Any]) -> str:
    budget, unit = facts["budget"], facts["unit"]
    share = f"{percent(budget)} of the pool's {unit}" if isinstance(budget, float) else f"{budget:,} {unit}"
    pool = facts["pool"]
    size = f"; pool of {pool['rows']:,} rows, {pool['tokens']:,} tokens" if pool else ""
    model, targets = f"Model {facts['model']} in {facts['dtype']}", ", ".join(facts["targets"]) or "not prepared yet"
    return f"{model}{size}; budget {share}; targets {targets}."


def _missing(names: Sequence[str]) -> str:
    """Stages that are not there: the first few by name, the others counted."""
    rest = len(names) - MISSING_NAMED
    return ", ".join(names[:MISSING_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def _comparison(studies: Sequence[Mapping[str, Any]]) -> Table:
    """A line a method of every study: its mean loss, the difference to its study's baseline, and each target's loss."""
    targets = list(dict.fromkeys(target for facts in studies for target in facts["heldout_rows"]))
    rows = []
    for place, facts in enumerate(studies):
        losses = facts["losses"]
        for name in sorted(losses, key=lambda one: losses[one][MEAN]):
            found = facts["differences"].get(name, {}).get(MEAN)
            rows.append(
                [
                    Cell(name, name, name == facts["best"]),
                    Cell(facts["study"], place),
                    count(facts["pool"]["rows"]) if facts["pool"] else Cell("–"),
                    number(losses[name][MEAN], 3, best=name == facts["best"], small=interval(found)),
                    *(number(losses[name].get(target), 3) for target in targets),
                ]
            )
    note = (
        "The best method of each study is marked. Losses compare across studies only where held-out rows are the same."
    )
    return Table(["method", "study", "pool", MEAN, *targets], rows, note=note)


def _read(package: str | None, name: str) -> str:
    text = files(package or "").joinpath(name).read_text(encoding="utf-8")
    # As a browser reads it, so that the digest of a script is that of what runs.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


_SCRIPTS = (("plotly.package_data", "plotly.min.js"), (__package__, "page.js"))
