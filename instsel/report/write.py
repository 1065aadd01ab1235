"""report.html from stored results: of one study beside its other reports, of several in one file."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.facts.gather import SUMMARY, gather, stored_summary
from instsel.report.facts.reading import texts
from instsel.report.facts.record import Record
from instsel.report.page.build import build_page

PAGE = "report.html"
REPORT = "report"


def write_report(places: Sequence[str], out: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """Build the page of some studies from their folders, finished or not.

    Needs neither Ray, nor a model, nor the user's own files. Where the page goes into its study, the facts that it
    shows are written into report/summary.json beside it, under `page`.

    Args:
        places: folders of studies; one that is named twice is shown once.
        out: file to write, a path or URI; by default report/report.html of a single study, and report.html here of
            several.

    Returns:
        Facts of each study, and where the page is.

    Raises:
        InputError: a folder holds no study, a file in it is damaged or cannot be read, or `out` cannot be written.
    """
    records = [Record(place) for place in dict.fromkeys(places)]
    own = out is None and len(records) == 1
    folder, name = (records[0].folder / REPORT, PAGE) if own else _place(PAGE if out is None else out)
    try:
        found = [gather(record) for record in records]
        shown = [texts(record, facts["reading"].get("rows", {})) for record, facts in zip(records, found, strict=True)]
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(f"{error}; run the study again, or give a copy of it that is whole") from error
    _tell_apart(found)
    page = build_page(list(zip(found, shown, strict=True)))
    try:
        if own:
            folder.write_json(SUMMARY, {**stored_summary(folder), "page": found[0]})
        folder.write(name, page)
    except OSError as error:
        raise InputError(f"{folder}/{name} cannot be written ({error}); give another file with --out") from error
    return found, f"{folder}/{name}"


def _tell_apart(studies: Sequence[dict[str, Any]]) -> None:
    """Add its folder to the name of each study that another one has too."""
    times = Counter(facts["study"] for facts in studies)
    for facts in studies:
        if times[facts["study"]] > 1:
            facts["study"] = f"{facts['study']} ({facts['place']})"


def _place(out: str) -> tuple[Folder, str]:
    parent, _, name = out.rpartition("/")
    folder = Folder.at(parent or ("/" if out.startswith("/") else "."))
    if not name or (folder.is_local and os.path.isdir(f"{folder}/{name}")):
        raise InputError(f"--out {out!r} is no file; name one: {os.path.join(out or '.', PAGE)}")
    return folder, name
