"""The contract of a stage: what it depends on, what it leaves, how it runs and what it will take.

All that the rest needs to know of a stage is said in its class. `instsel.pipeline` has one module a stage; a module
that is put there is found by itself, see `instsel.pipeline.registry`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple

from pydantic import JsonValue

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.study.estimates import PlanContext, StageEstimate
from instsel.study.folder import Cost, ResultT, StageFolder
from instsel.study.reader import StudyReader
from instsel.study.resources import ResourcePlan

if TYPE_CHECKING:
    from instsel.study.graph import StageGraph

__all__ = ["Cost", "Finished", "PlanContext", "RunContext", "Settings", "Stage", "StageEstimate", "StageKey"]

Settings = dict[str, JsonValue]
"""JSON values by name."""


class StageKey(NamedTuple):
    """One of the folders that a stage leaves.

    Attributes:
        stage: name of the stage.
        key: what tells it from the others: a method, a run or an estimator; empty where the stage has one folder.
    """

    stage: str
    key: str = ""

    @property
    def name(self) -> str:
        """Path below the study's folder: `features`, `attribution/cosine`."""
        return f"{self.stage}/{self.key}" if self.key else self.stage

    @classmethod
    def parse(cls, name: str) -> "StageKey":
        """Return the key that has this name."""
        stage, _, key = name.partition("/")
        return cls(stage, key)


@dataclass(frozen=True)
class RunContext:
    """What a stage runs with.

    Attributes:
        config: the checked study file, its dtype settled.
        graph: every stage of the study.
        resources: how model actors and training workers share the cluster.
        console: where progress is shown.
    """

    config: StudyConfig
    graph: "StageGraph"
    resources: ResourcePlan
    console: Terminal

    @property
    def folder(self) -> Folder:
        """Folder of the study."""
        return self.graph.folder

    @cached_property
    def study(self) -> StudyReader:
        """What the stages of the study left, read once."""
        return StudyReader(self.graph.folder)

    def stage(self, stage: str, key: str = "") -> StageFolder:
        """Return the folder of a stage, for a stage with several keys that of one."""
        return self.graph[StageKey(stage, key)]


@dataclass(frozen=True)
class Finished(Generic[ResultT]):
    """What the run of a stage ends with."""

    result: ResultT
    cost: Cost = field(default_factory=Cost)


class Stage(ABC, Generic[ResultT]):
    """A step of a study.

    A stage knows files alone: it reads the folders of its parents and writes its own. What it leaves is the same
    whatever the number of workers, and a run that was killed resumes where it stopped. Ray, torch and transformers are
    imported where they are used, since every command loads every stage.

    Attributes:
        name: of the stage and of its folder.
        position: stages run in this order, and a parent has a lower one.
        version: raised when its output changes; older folders of it are made again.
        per_trial: whether each trial of a search has its own.
        is_goal: whether a study runs it although nothing reads it.
    """

    name: ClassVar[str]
    position: ClassVar[int]
    version: ClassVar[int] = 1
    per_trial: ClassVar[bool] = False
    is_goal: ClassVar[bool] = False

    def keys(self, config: StudyConfig) -> Sequence[str]:
        """Return the keys of its folders: one a method, run or estimator; `[""]` for a single one."""
        return [""]

    @abstractmethod
    def parents(self, config: StudyConfig, key: str) -> Sequence[StageKey]:
        """Return the stages whose folders it reads."""

    def settings(self, config: StudyConfig, key: str) -> Settings:
        """Return what of the study file its content depends on, without a look at any other file."""
        return {}

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        """Return the identity of the user's files and models that it reads.

        Raises:
            InputError: a file is missing; the message names its key.
        """
        return {}

    def run(self, context: RunContext, keys: Sequence[str]) -> None:
        """Make the folders of the keys, none of which is done, and commit each.

        A stage whose keys share workers or models overrides this; any other one has `run_key`.

        Raises:
            InputError: the user's files or settings are wrong.
            StudyError: the stage failed.
        """
        for key in keys:
            context.console.head(" ".join(StageKey(self.name, key)).strip())
            folder = context.stage(self.name, key)
            folder.start()
            finished = self.run_key(context, key)
            folder.commit(finished.result, finished.cost)

    def run_key(self, context: RunContext, key: str) -> Finished[ResultT]:
        """Make the folder of one key, which is started; what an interrupted run left in it is there."""
        raise NotImplementedError(f"stage {self.name} has neither `run` nor `run_key`")

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate | None:
        """Return what the keys, none of which is done, will take; None for a stage that a plan does not show.

        Nothing is written into the study's folder.

        Raises:
            InputError: the user's files or settings are wrong.
            StudyError: what is measured failed.
        """
        return None
