"""report.html from stored results: of one study beside its other reports, of several in one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instsel.report.facts.gather import SUMMARY, gather
from instsel.report.facts.reading import texts
from instsel.report.facts.record import Record
from instsel.report.page.build import build_page

PAGE = "report.html"
REPORT = "report"


def write_report(places: Sequence[str], out: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """Build the page of some studies from their folders, finished or not.

    Needs neither Ray, nor a model, nor the user's own files. The facts that the page shows are written into each
    study's report/summary.json, under `page`.

    Args:
        places: folders of studies.
        out: file to write; by default report/report.html of a single study, and report.html here of several.

    Returns:
        Facts of each study, and where the page is.

    Raises:
        InputError: a folder holds no study.
    """
    records = [Record(place) for place in places]
    found = [gather(record) for record in records]
    page = build_page(
        [(facts, texts(record, facts["reading"].get("rows", {}))) for record, facts in zip(records, found, strict=True)]
    )
    for record, facts in zip(records, found, strict=True):
        folder = record.folder / REPORT
        summary = folder.read_json(SUMMARY) if folder.exists(SUMMARY) else {}
        folder.write_json(SUMMARY, {**summary, "page": facts})
    if out is None and len(records) == 1:
        (records[0].folder / REPORT).write(PAGE, page)
        return found, f"{records[0].folder}/{REPORT}/{PAGE}"
    path = Path(out or PAGE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page)
    return found, str(path)
