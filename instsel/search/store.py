"""The points that a search has tried, with their progress: one JSON file for each point of its space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instsel.config.search import Search
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder
from instsel.search.outcome import Outcome, objective_of
from instsel.search.trial import OUTCOME, split_losses


@dataclass(frozen=True)
class TrialStore:
    """The points of one search.

    Attributes:
        folder: where their files are.
        trials: folder of the trials, which searches share.
        search: the key `search`.
    """

    folder: Folder
    trials: Folder
    search: Search

    def asked(self, point: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the entry of a point; None if it was never tried."""
        name = f"{_name(point)}.json"
        entry: dict[str, Any] | None = self.folder.read_json(name) if self.folder.exists(name) else None
        return entry

    def note(self, point: Mapping[str, Any], trial: str | None, progress: Mapping[str, Any] | None) -> None:
        """Write down that a point is tried, by which trial, and its last progress."""
        self.folder.write_json(f"{_name(point)}.json", {"point": dict(point), "trial": trial, "progress": progress})

    def end(self, point: Mapping[str, Any], *, failed: str | None) -> None:
        """Mark a point whose trial ended before its last report: as failed, or as stopped early."""
        kept = self.asked(point) or {"trial": None, "progress": None}
        progress = kept["progress"] or {}
        if progress.get("last"):
            return
        if failed is not None or not progress:
            progress = {"failed": failed or "stopped before its first epoch ended"}
        self.note(point, kept["trial"], {**progress, "last": True, "stopped": "objective" in progress})

    def outcomes(self) -> list[tuple[dict[str, Any], Outcome | None]]:
        """Return every point that was tried with its outcome; None for one that is unfinished."""
        entries = [self.folder.read_json(name) for name in self.folder.names()]
        return [(entry["point"], self.outcome(entry)) for entry in entries]

    def outcome(self, kept: Mapping[str, Any]) -> Outcome | None:
        """Return the outcome of an entry."""
        point, progress, trial = kept["point"], kept["progress"], kept["trial"]
        if trial is not None and (self.trials / trial).exists(OUTCOME):
            done = (self.trials / trial).read_json(OUTCOME)
            folder = self.trials / trial / done["evaluated"]
            searched, judged = split_losses(folder, done["targets"], self.search.share)
            objective = objective_of(searched, done["tokens"], self.search.objective)
            return Outcome(trial, point, objective, done["tokens"], searched, judged)
        if progress is None or not progress["last"]:
            return None
        name = trial or _name(point)
        if progress["stopped"]:
            return Outcome(name, point, progress["objective"], progress["tokens"], {}, {}, stopped=True)
        return Outcome(name, point, float("inf"), 0, {}, {}, failed=progress["failed"])


def _name(point: Mapping[str, Any]) -> str:
    return fingerprint(dict(point))
