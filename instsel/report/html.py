"""The reports of studies as files: report.html, and in a study's own folder report.md and summary.json beside it."""

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from instsel import __version__
from instsel.console import printable
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.collect import REPORT, SUMMARY, Measured, as_json, collect
from instsel.report.facts import SearchFacts, StudyFacts
from instsel.report.page.gains import gains_section, headroom_section
from instsel.report.page.parts import Chart, Section, Table
from instsel.report.page.results import (
    comparison,
    cost_section,
    near_copies_section,
    pareto_chart,
    reading_section,
    rejected_section,
    results_section,
    search_section,
)
from instsel.report.page.selections import (
    budgets_section,
    composition_section,
    influence_section,
    mixture_section,
    orders_section,
)
from instsel.report.reading import Texts, read_texts
from instsel.report.record import StudyRecord
from instsel.report.text import budget_text, study_report

PAGE = "report.html"
MARKDOWN = "report.md"
MOST_MISSING = 6
_SCRIPTS = (("plotly.package_data", "plotly.min.js"), ("instsel.report.page", "page.js"))


@dataclass(frozen=True)
class StudyPage:
    """One study as the template shows it."""

    key: str
    name: str
    overview: str
    warnings: Sequence[str]
    missing: str
    sections: Sequence[Section]


def write_report(paths: Sequence[str], out: str | None = None) -> tuple[list[StudyFacts], str]:
    """Build the page of some studies from their folders, finished or not.

    Needs neither Ray, nor a model, nor the user's own files. Where the page goes into its study, report.md and
    summary.json are written beside it.

    Args:
        paths: folders of studies; one that is named twice is shown once.
        out: file to write, a path or URI; by default report/report.html of a single study, and report.html here of
            several.

    Returns:
        Facts of each study, and the path of the page.

    Raises:
        InputError: a folder holds no study, a file in it is damaged or cannot be read, or `out` cannot be written.
    """
    records = [StudyRecord(path) for path in dict.fromkeys(paths)]
    if out is None and len(records) == 1:
        return [write_into_study(records[0])], f"{records[0].folder / REPORT}/{PAGE}"
    folder, name = _file(PAGE if out is None else out)
    studies = _with_unique_names([_read(record) for record in records])
    page = build_page(studies)
    with _writable(f"{folder}/{name}"):
        folder.write(name, page)
    return [facts for facts, _ in studies], f"{folder}/{name}"


def write_into_study(record: StudyRecord, measured: Measured | None = None) -> StudyFacts:
    """Write report.html, report.md and summary.json into a study's folder.

    Args:
        record: of the study.
        measured: by the stage *report*, see `collect`.
    """
    facts, texts = _read(record, measured)
    folder = record.folder / REPORT
    with _writable(f"{folder}/{PAGE}"):
        folder.write_json(SUMMARY, as_json(facts))
        folder.write(MARKDOWN, study_report(facts).encode())
        folder.write(PAGE, build_page([(facts, texts)]))
    return facts


def _read(record: StudyRecord, measured: Measured | None = None) -> tuple[StudyFacts, Texts]:
    try:
        facts = collect(record, measured)
        return facts, read_texts(record, facts.reading.rows)
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(f"{error}; run the study again, or give a copy of it that is whole") from error
    except ValidationError as error:
        raise InputError(
            f"{record.path} holds other results than this version writes: {error}; run it again"
        ) from error


@contextmanager
def _writable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); give another file with --out") from error


def _with_unique_names(studies: Sequence[tuple[StudyFacts, Texts]]) -> list[tuple[StudyFacts, Texts]]:
    """Add its folder to the name of each study that another one has too."""
    times = Counter(facts.study for facts, _ in studies)
    return [
        (
            facts.model_copy(update={"study": f"{facts.study} ({facts.path})"}) if times[facts.study] > 1 else facts,
            texts,
        )
        for facts, texts in studies
    ]


def _file(out: str) -> tuple[Folder, str]:
    parent, _, name = out.rpartition("/")
    folder = Folder.at(parent or ("/" if out.startswith("/") else "."))
    if not name or (folder.is_local and os.path.isdir(f"{folder}/{name}")):
        raise InputError(f"--out {out!r} is no file; name one: {os.path.join(out or '.', PAGE)}")
    return folder, name


def build_page(studies: Sequence[tuple[StudyFacts, Texts]]) -> bytes:
    """Build report.html of some studies, UTF-8.

    Nothing of the page runs but two scripts, Plotly's and our own, which the page's policy names by their digests; it
    may load nothing at all. Every text is escaped, and its control signs are spelled out.

    Args:
        studies: facts of each, and the texts of the rows that it shows.
    """
    pages = [_study_page(f"s{index}", facts, texts) for index, (facts, texts) in enumerate(studies)]
    charts: list[dict[str, Any]] = []

    def chart_index(chart: Chart) -> int:
        charts.append({"traces": chart.traces, "layout": chart.layout})
        return len(charts) - 1

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["plain"] = lambda text: printable(str(text))
    plotly, script = (_resource(package, name) for package, name in _SCRIPTS)
    table: Table | None = comparison([facts for facts, _ in studies]) if len(studies) > 1 else None
    page = environment.from_string(_resource("instsel.report.page", "page.html.j2")).render(
        title=" and ".join(dict.fromkeys(page.name for page in pages)),
        studies=pages,
        comparison=table,
        css=Markup(_resource("instsel.report.page", "page.css")),  # noqa: S704
        plotly=Markup(plotly),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hashes=Markup(" ".join(_digest(text) for text in (plotly, script))),  # noqa: S704
        chart_index=chart_index,
        charts=lambda: Markup(embedded(charts)),  # noqa: S704
        version=__version__,
    )
    # A name read from JSON may hold half of a surrogate pair, which UTF-8 cannot write.
    return page.encode("utf-8", "backslashreplace")


def search_page(search: SearchFacts) -> bytes:
    """Write the Pareto set of a search as an HTML file with Plotly's script in it, which loads nothing."""
    # Here, since it loads slowly, and only a search has such a page.
    from plotly.io import to_html

    chart = pareto_chart(search)
    layout = {"title": {"text": chart.title}, **chart.layout}
    page: str = to_html({"data": chart.traces, "layout": layout}, div_id="pareto")
    return page.encode("utf-8", "backslashreplace")


def embedded(value: Any) -> str:
    """Write JSON that can stand within a script element: no sign of it ends the element or starts a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _study_page(key: str, facts: StudyFacts, texts: Texts) -> StudyPage:
    sections = [
        results_section(facts),
        gains_section(facts),
        headroom_section(facts),
        composition_section(facts),
        influence_section(facts),
        budgets_section(facts),
        mixture_section(facts),
        orders_section(facts),
        search_section(facts),
        reading_section(facts, texts),
        rejected_section(facts),
        near_copies_section(facts),
        cost_section(facts),
    ]
    size = f"; pool of {facts.pool.rows:,} rows, {facts.pool.tokens:,} tokens" if facts.pool else ""
    targets = ", ".join(facts.targets) or "not prepared yet"
    overview = f"Model {facts.model} in {facts.dtype}{size}; budget {budget_text(facts)}; targets {targets}."
    rest = len(facts.missing) - MOST_MISSING
    missing = ", ".join(facts.missing[:MOST_MISSING]) + (f" and {rest:,} more" if rest > 0 else "")
    shown = [section for section in sections if section is not None]
    return StudyPage(key, facts.study, overview, facts.warnings, missing, shown)


def _resource(package: str, name: str) -> str:
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    # As a browser reads it, so that the digest of a script is that of what runs.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
