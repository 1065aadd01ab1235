"""The day that templates write is that of the stage's start, also where it goes on on another day."""

from datetime import date
from pathlib import Path

import pytest

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.pipeline import prepare
from instsel.pipeline.prepare import _with_date


def _on(day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Day(date):
        @classmethod
        def today(cls) -> date:
            return date.fromisoformat(day)

    monkeypatch.setattr(prepare, "date", Day)


def test_fault_10_a_stage_that_goes_on_after_midnight_writes_the_same_day(
    tiny_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = parse_study(tiny_study(), "test"), Folder.at(tmp_path / "prepare")
    _on("2024-02-29", monkeypatch)
    assert _with_date(study, folder).data.date == date(2024, 2, 29)
    _on("2024-03-01", monkeypatch)
    assert _with_date(study, folder).data.date == date(2024, 2, 29)
    written = study.model_copy(update={"data": study.data.model_copy(update={"date": date(2020, 1, 1)})})
    assert _with_date(written, folder).data.date == date(2020, 1, 1)
