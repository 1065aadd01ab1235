"""What a search has asked for and what it was told: a JSON file a point of its space."""

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
        """What is known of a point; None if it was never asked for."""
        name = f"{_name(point)}.json"
        found: dict[str, Any] | None = self.folder.read_json(name) if self.folder.exists(name) else None
        return found

    def note(self, point: Mapping[str, Any], trial: str | None, told: Mapping[str, Any] | None) -> None:
        """Write down that a point was asked for, by which trial, and what that told last."""
        self.folder.write_json(f"{_name(point)}.json", {"point": dict(point), "trial": trial, "told": told})

    def end(self, point: Mapping[str, Any], *, failed: str | None) -> None:
        """Mark a point whose trial ended before it told its last: as failed, or as stopped early."""
        kept = self.asked(point) or {"trial": None, "told": None}
        told = kept["told"] or {}
        if told.get("last"):
            return
        if failed is not None or not told:
            told = {"failed": failed or "stopped before its first epoch ended"}
        self.note(point, kept["trial"], {**told, "last": True, "stopped": "objective" in told})

    def outcomes(self) -> list[tuple[dict[str, Any], Outcome | None]]:
        """Every point that was asked for, and what came out; None for one that was under way."""
        kept = [self.folder.read_json(name) for name in self.folder.names()]
        return [(one["point"], self.outcome(one)) for one in kept]

    def outcome(self, kept: Mapping[str, Any]) -> Outcome | None:
        """What came out of a point, by its file."""
        point, told, trial = kept["point"], kept["told"], kept["trial"]
        if trial is not None and (self.trials / trial).exists(OUTCOME):
            done = (self.trials / trial).read_json(OUTCOME)
            folder = self.trials / trial / done["evaluated"]
            searched, judged = split_losses(folder, done["targets"], self.search.share)
            objective = objective_of(searched, done["tokens"], self.search.objective)
            return Outcome(trial, point, objective, done["tokens"], searched, judged)
        if told is None or not told["last"]:
            return None
        name = trial or _name(point)
        if told["stopped"]:
            return Outcome(name, point, told["objective"], told["tokens"], {}, {}, stopped=True)
        return Outcome(name, point, float("inf"), 0, {}, {}, failed=told["failed"])


def _name(point: Mapping[str, Any]) -> str:
    return fingerprint(dict(point))
