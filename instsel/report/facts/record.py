"""The record of a study: which stages its folder should have, which it has, and what they say of themselves."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from instsel.choice.reselect import open_study
from instsel.config.file import dump_yaml
from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.report.markdown import BASE
from instsel.study.attribution_specs import attribution_specs
from instsel.study.folder import MANIFEST, read_manifest
from instsel.study.reader import StudyReader
from instsel.study.runs import Run, runs_of


class Record:
    """Reads a study folder, finished or not, without the user's own files."""

    def __init__(self, place: str) -> None:
        """Open the folder of a study.

        Raises:
            InputError: there is no study, or it never ran.
        """
        study, reader = open_study(place)
        self.place: str = place
        self.study: StudyConfig = study
        self.reader: StudyReader = reader
        self.folder: Folder = reader.study

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Every training that the study file asks for, by name."""
        return runs_of(self.study)

    @cached_property
    def wanted(self) -> list[str]:
        """Stages that the study file asks for, those aside that only stages before *select* read."""
        selections = dict.fromkeys(run.selection for run in self.runs.values())
        return [
            "prepare",
            *(f"attribution/{name}" for name in attribution_specs(self.study)),
            *(f"select/{name}" for name in selections),
            *(f"finetune/{name}" for name in self.runs),
            *(f"evaluate/{name}" for name in (BASE, *self.runs)),
        ]

    @cached_property
    def manifests(self) -> dict[str, Any]:
        """The manifest of every finished stage that the study file asks for, and of those before it, by name.

        What a former study file left in the folder is no part of the study, and is left out.
        """
        mixture = self.study.mixture
        estimators = [f"interaction/{name}" for name in mixture.estimators] if mixture else []
        found: dict[str, Any] = {}
        waiting = [*self.wanted, *estimators]
        while waiting:
            name = waiting.pop()
            if name in found or not self._is_stage(name) or not (self.folder / name).exists(MANIFEST):
                continue
            found[name] = read_manifest(self.folder / name)
            waiting += found[name]["parents"]
        groups = list(dict.fromkeys(name.partition("/")[0] for name in self.reader.stages()))
        order = {name: number for number, name in enumerate(self.wanted)}
        names = sorted(found, key=lambda name: (groups.index(name.partition("/")[0]), order.get(name, 0)))
        return {name: found[name] for name in names}

    @property
    def missing(self) -> list[str]:
        """Stages that the study file asks for and that are not finished."""
        return [name for name in self.wanted if name not in self.manifests]

    def results(self, group: str) -> dict[str, dict[str, Any]]:
        """What the finished stages of a group found: name within the group -> result."""
        return {
            name.partition("/")[2]: manifest["result"]
            for name, manifest in self.manifests.items()
            if name.startswith(f"{group}/")
        }

    @property
    def prepared(self) -> Mapping[str, Any] | None:
        """The result of *prepare*: pool and targets; None where it is not finished."""
        manifest = self.manifests.get("prepare")
        return None if manifest is None else manifest["result"]

    @property
    def study_file(self) -> str:
        """The study file with every default, as YAML."""
        return dump_yaml(self.study.model_dump(mode="json"))

    def _is_stage(self, name: str) -> bool:
        """Return whether a name is one of a stage: a manifest of somebody else could name a path outside the folder."""
        groups = "|".join({re.escape(name.partition("/")[0]) for name in self.reader.stages()})
        return re.fullmatch(rf"({groups})(/(?!\.\.?$)[^/\\]+)?", name) is not None
