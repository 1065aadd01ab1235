"""The record of a study: which stages its folder should have, which it has, and what they say of themselves."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from instsel.choice.reselect import open_study
from instsel.config.file import dump_yaml
from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.study.attribution_specs import attribution_specs
from instsel.study.folder import MANIFEST, Manifest, read_manifest
from instsel.study.reader import StudyReader
from instsel.study.runs import BASE, Run, runs_of


class StudyRecord:
    """Reads a study folder, finished or not, without the user's own files.

    Attributes:
        path: of the folder.
        config: the study file as it was last run.
        reader: of the stages.
        folder: of the study.
    """

    def __init__(self, path: str) -> None:
        """Open the folder of a study.

        Raises:
            InputError: there is no study, or it never ran.
        """
        config, reader = open_study(path)
        self.path: str = path
        self.config: StudyConfig = config
        self.reader: StudyReader = reader
        self.folder: Folder = reader.study

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Every training that the study file asks for, by name."""
        return runs_of(self.config)

    @cached_property
    def expected(self) -> list[str]:
        """Stages that the study file asks for, except those that only stages before *select* read."""
        selections = dict.fromkeys(run.selection for run in self.runs.values())
        return [
            "prepare",
            *(f"attribution/{name}" for name in attribution_specs(self.config)),
            *(f"select/{name}" for name in selections),
            *(f"finetune/{name}" for name in self.runs),
            *(f"evaluate/{name}" for name in (BASE, *self.runs)),
        ]

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Manifest of every finished stage that the study file asks for, and of those before it, by name.

        What a former study file left in the folder is no part of the study.
        """
        mixture = self.config.mixture
        estimators = [f"interaction/{name}" for name in mixture.estimators] if mixture else []
        manifests: dict[str, Manifest] = {}
        waiting = [*self.expected, *estimators]
        while waiting:
            name = waiting.pop()
            if name in manifests or not self._is_stage(name) or not (self.folder / name).exists(MANIFEST):
                continue
            manifests[name] = read_manifest(self.folder / name)
            waiting += manifests[name]["parents"]
        stages = list(dict.fromkeys(name.partition("/")[0] for name in self.reader.stages()))
        order = {name: index for index, name in enumerate([*self.expected, *estimators])}
        names = sorted(manifests, key=lambda name: (stages.index(name.partition("/")[0]), order.get(name, 0)))
        return {name: manifests[name] for name in names}

    @property
    def missing(self) -> list[str]:
        """Stages that the study file asks for and that are not finished."""
        return [name for name in self.expected if name not in self.manifests]

    def results(self, stage: str) -> dict[str, dict[str, Any]]:
        """Return what a stage of several keys left: key -> result, of those that are finished."""
        return {
            name.partition("/")[2]: manifest["result"]
            for name, manifest in self.manifests.items()
            if name.startswith(f"{stage}/")
        }

    @property
    def prepared(self) -> Mapping[str, Any] | None:
        """The result of *prepare*: pool and targets; None where it is not finished."""
        manifest = self.manifests.get("prepare")
        return None if manifest is None else manifest["result"]

    @property
    def study_file(self) -> str:
        """The study file with every default, as YAML."""
        return dump_yaml(self.config.model_dump(mode="json"))

    def _is_stage(self, name: str) -> bool:
        """Return whether a stage has this name: a manifest from elsewhere could name a path outside the folder."""
        stages = "|".join({re.escape(stage.partition("/")[0]) for stage in self.reader.stages()})
        return re.fullmatch(rf"({stages})(/(?!\.\.?$)[^/\\]+)?", name) is not None
