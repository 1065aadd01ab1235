"""The record of a study: which stages its folder should have, which it has, and whether they belong together."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from instsel.choice.output import TABLE
from instsel.choice.reselect import open_study
from instsel.config.file import dump_yaml
from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.study.attribution_specs import attribution_specs
from instsel.study.folder import MANIFEST, Manifest, read_manifest, stage_fingerprint
from instsel.study.graph import stale_settings
from instsel.study.reader import StudyReader
from instsel.study.runs import BASE, Run, runs_of

MOST_NAMED = 3
_TOLERANCE = 1e-9


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

    def names_at(self, budget: int | float | None) -> list[str]:
        """Return the names of the base model and of the runs of a budget; None is the largest of the study."""
        amount = self.config.selection.largest_budget if budget is None else budget
        return [BASE, *(name for name, run in self.runs.items() if run.budget == amount)]

    @cached_property
    def expected(self) -> list[str]:
        """Stages that the study file asks for, except those that only stages before *select* read."""
        selections = dict.fromkeys(run.selection for run in self.runs.values())
        return [
            "prepare",
            *(["headroom"] if self.config.evaluation.headroom else []),
            *(f"attribution/{name}" for name in attribution_specs(self.config)),
            *(f"select/{name}" for name in selections),
            *(f"finetune/{name}" for name in self.runs),
            *(f"evaluate/{name}" for name in (BASE, *self.runs)),
            *(f"accuracy/{name}" for name in (BASE, *self.runs) if self.config.measured),
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


def warnings(record: StudyRecord) -> list[str]:
    """Say what does not fit together in a study folder, a sentence each; empty where everything does.

    The settings of each stage are compared with the study file. A manifest's fingerprint is computed again from what
    it says the stage depended on, and compared with what later stages were made from; the losses and the counts of
    rows are compared with the tables beside them.
    """
    sentences = _stale(record)
    for name, manifest in record.manifests.items():
        sentences += _chain(name, manifest, record.manifests)
    for name, result in record.results("select").items():
        rows = len((record.folder / "select" / name).read_table(TABLE, ["id"]))
        if rows != result["rows"]:
            sentences.append(f"select/{name}/{TABLE} has {rows:,} rows, but its manifest says {result['rows']:,}")
    for name, result in record.results("evaluate").items():
        sentences += _losses(record, name, result["losses"])
    return sentences


def _stale(record: StudyRecord) -> list[str]:
    by_keys: dict[str, list[str]] = {}
    for name, keys in stale_settings(record.reader.stages(), record.manifests).items():
        by_keys.setdefault(", ".join(sorted(keys)), []).append(name)
    return [f"{_first(names)}: made by another study file, with other {keys}" for keys, names in by_keys.items()]


def _first(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def _chain(name: str, manifest: Manifest, manifests: Mapping[str, Manifest]) -> list[str]:
    content = (manifest["version"], manifest["settings"], manifest["inputs"], manifest["parents"])
    sentences = []
    if stage_fingerprint(manifest["stage"], *content) != manifest["fingerprint"]:
        sentences.append(f"{name}/manifest.json was edited: its fingerprint does not match what it says")
    for parent, expected in manifest["parents"].items():
        if parent in manifests and manifests[parent]["fingerprint"] != expected:
            sentences.append(f"{name} was made from another {parent} than the one that is there now")
    return sentences


def _losses(record: StudyRecord, run: str, losses: Mapping[str, float]) -> list[str]:
    sentences = []
    # Only the study's own targets: a name from elsewhere could lead out of the folder.
    for target in (target for target in record.config.targets if target in losses):
        folder, file = record.folder / "evaluate" / run, f"{target}.parquet"
        if not folder.exists(file):
            sentences.append(f"evaluate/{run}/{file} is gone, but the manifest has its mean loss")
            continue
        mean = folder.read_table(file, ["loss"])["loss"].to_numpy().mean()
        if not np.isclose(mean, losses[target], rtol=_TOLERANCE, atol=_TOLERANCE):
            sentences.append(f"evaluate/{run}/{file} was edited: its mean loss is not what the manifest says")
    return sentences
