"""The stages of one study: their folders, fingerprints, which its methods need, and which of them are stale."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from pydantic import JsonValue

from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.dependencies import identities_kept
from instsel.study.folder import STALE, Manifest, StageFolder
from instsel.study.runs import runs_of
from instsel.study.stage import Settings, Stage, StageKey


class StageEntry(TypedDict):
    """A stage in `graph.json`."""

    name: str
    settings: Settings


class StageGraph:
    """Every stage that a study can have.

    The user's files are only looked at where a stage is needed or asked for.

    Attributes:
        config: the checked study file.
        folder: of the study.
        runs: trainings by name.
    """

    def __init__(
        self,
        config: StudyConfig,
        folder: Folder,
        stages: Sequence[Stage[Any]],
        trial_folder: Folder | None = None,
        *,
        redo: bool = False,
    ) -> None:
        """Make the graph of a study.

        Args:
            config: the checked study file.
            folder: of the study.
            stages: in the order in which they run.
            trial_folder: folder of the stages that each trial of a search has for itself; by default that of the
                study. What is above does not change with it, nor does any fingerprint.
            redo: delete stale results behind a URI, where they cannot be renamed, also if they took long.

        Raises:
            InputError: two runs of the study would have one name, or a file is missing that a needed stage depends on.
        """
        self.config, self.folder, self.runs = config, folder, runs_of(config)
        self._stages = {stage.name: stage for stage in stages}
        self._trial_folder = trial_folder or folder
        self._stale = None if redo and not folder.is_local else folder / STALE
        self._folders: dict[StageKey, StageFolder] = {}
        self._identities: dict[str, Settings] = {}
        # Looked at now: a file that is missing is an error before anything runs.
        for key in self._needed:
            self[key]

    def __getitem__(self, key: str | StageKey | tuple[str, str]) -> StageFolder:
        """Return the folder of `stage`, `stage/key` or (stage, key).

        Raises:
            InputError: a file of the user that the stage depends on is missing; the message names its key.
        """
        key = StageKey.parse(key) if isinstance(key, str) else StageKey(*key)
        if key not in self._folders:
            self._folders[key] = self._make(key)
        return self._folders[key]

    @property
    def stages(self) -> list[Stage[Any]]:
        """The stages, in the order in which they run."""
        return list(self._stages.values())

    def of(self, stage: str) -> dict[str, StageFolder]:
        """Return the folders of a stage by key."""
        return {key: self[StageKey(stage, key)] for key in self._stages[stage].keys(self.config)}

    def until(self, last: str) -> list[StageFolder]:
        """Return the folders of all stages through `last` that the study needs, in the order in which they run."""
        needed, names = self._needed, list(self._stages)
        keys = [key for name in names[: names.index(last) + 1] for key in self._keys(name) if key in needed]
        return [self[key] for key in keys]

    def open_keys(self, last: str) -> dict[str, list[str]]:
        """Return the stages through `last` that have something to do, each with its keys that are not done."""
        waiting: dict[str, list[str]] = {}
        for folder in self.until(last):
            if not folder.done():
                waiting.setdefault(StageKey.parse(folder.name).stage, []).append(folder.key)
        return waiting

    def stage(self, name: str) -> Stage[Any]:
        """Return the stage of a name."""
        return self._stages[name]

    def describe(self) -> list[StageEntry]:
        """Return the name and the settings of every stage that the study can have, for `graph.json`."""
        keys = (key for name in self._stages for key in self._keys(name))
        return [{"name": key.name, "settings": self._stages[key.stage].settings(self.config, key.key)} for key in keys]

    @property
    def _needed(self) -> set[StageKey]:
        needed: set[StageKey] = set()
        waiting = [key for stage in self._stages.values() if stage.is_goal for key in self._keys(stage.name)]
        while waiting:
            key = waiting.pop()
            if key not in needed:
                needed.add(key)
                waiting += self._stages[key.stage].parents(self.config, key.key)
        return needed

    def _keys(self, stage: str) -> Iterator[StageKey]:
        return (StageKey(stage, key) for key in self._stages[stage].keys(self.config))

    def _make(self, key: StageKey) -> StageFolder:
        if key.stage not in self._stages:
            raise InputError(f"no stage is called {key.stage!r}; they are {', '.join(self._stages)}")
        stage = self._stages[key.stage]
        parents = [self[parent] for parent in stage.parents(self.config, key.key)]
        where = self._trial_folder if stage.per_trial else self.folder
        settings = stage.settings(self.config, key.key)
        with identities_kept(self._identities):
            inputs = stage.inputs(self.config, key.key)
        return StageFolder(where / key.name, key.name, settings, parents, inputs, stage.version, self._stale)


def stale_settings(
    settings: Mapping[str, Settings], manifests: Mapping[str, Manifest | None] | Mapping[str, Manifest]
) -> dict[str, list[str]]:
    """Find the finished stages that were made by other settings than the study file has now.

    A setting that only one of the two has is passed over: another version of instsel may have had others.

    Args:
        settings: stage -> its settings by the study file, see `StudyReader.stages`.
        manifests: stage -> its manifest; None of one that is not finished.

    Returns:
        Stage -> settings that differ, such as `finetune.epochs`.
    """
    stale = {}
    for name, manifest in manifests.items():
        if manifest is not None and name in settings:
            keys = list(_differences(manifest["settings"], settings[name]))
            if keys:
                stale[name] = keys
    return stale


def _differences(before: JsonValue, now: JsonValue, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now.keys() & before.keys():
            yield from _differences(before[name], now[name], f"{key}.{name}" if key else name)
    elif before != now:
        yield key
