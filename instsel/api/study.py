"""`instsel.open_study`: what a study found, as tables and arrays, and new selections from it."""

import json
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from instsel.api import tables
from instsel.api.tables import StudyArrays, known
from instsel.choice import reselect as anew
from instsel.choice.explain import Explanation, explain
from instsel.choice.influence import influence_matrix
from instsel.choice.metrics import selection_metrics
from instsel.choice.output import TABLE
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.markdown import BASE
from instsel.study.attribution_specs import attribution_specs
from instsel.study.folder import MANIFEST, STARTED, Manifest, read_manifest
from instsel.study.runs import Run, runs_of
from instsel.study.staleness import stale_settings

SHOWN = 5
EXAMPLE = ["id", "task", "messages", "tokens", "answer_tokens"]


def open_study(path: str | Path) -> "Study":
    """Open a study's folder; warns where results in it were made from other results than are there now.

    Raises:
        InputError: the folder holds no study.
    """
    place = str(path)
    if "://" not in place:
        place = os.path.abspath(os.path.expanduser(place))
    study = Study(place, *anew.open_study(place))
    old = study.stages.filter(pc.field("done") & ~pc.field("current"))["stage"].to_pylist()
    if old:
        warnings.warn(
            f"{place}: {', '.join(old[:SHOWN])}{', ...' if len(old) > SHOWN else ''} not of the other results that are "
            "there now; they were edited, or are of another study file: run the study again",
            stacklevel=2,
        )
    return study


class Study(StudyArrays):
    """A study's folder, read when it is asked for; nothing in it is run, and only `select` writes.

    Tables are Arrow tables: `.to_pandas()` makes a data frame. What is asked for and is not there is an `InputError`
    that names the stage. What puts several stages together (`attribution`, `features`, `select`, ...) is refused where
    they are not of one another.

    Attributes:
        place: of the folder.
        config: the study file as it was last run, with every default.
    """

    def __repr__(self) -> str:
        return f"<Study {self.name!r} in {self.place}>"

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name

    @cached_property
    def stages(self) -> pa.Table:
        """One line a stage of the study file that has begun.

        stage, done, current (done, and of the stages before it as they are now), seconds, tokens, peak_memory_bytes (of
        one process), rows_again (whose work was done twice), version (of instsel).
        """
        folder, settings = self._inputs.study, self._inputs.stages()
        beside = manifests(folder, left_over(folder, list(settings)))
        found = manifests(folder, list(settings))
        return stage_table(found, beside, stale_settings(settings, found))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All that the report says, `report/summary.json`."""
        found: dict[str, Any] = self._finished("report").read_json("summary.json")
        return found

    @property
    def pool(self) -> pa.Table:
        """One line a row of the pool: id, source, task, tokens, answer_tokens, shard."""
        return self._inputs.index

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """Rows of the pool, in the order of `ids`: id, source, task, messages, tokens, answer_tokens, file, line."""
        return tables.row_table(self._inputs, list(ids))

    def examples(self, target: str, split: Literal["validation", "heldout"] = "validation") -> pa.Table:
        """Examples of a target: id, task, messages, tokens, answer_tokens."""
        known("target", target, self.targets)
        has = self._inputs.prepared.targets.get(target, {})
        if split not in has:
            raise InputError(f"target {target!r} has no {split!r} rows; it has {', '.join(has)}")
        return (self._inputs.study / "prepare" / "targets" / target).read_table(f"{split}.parquet", EXAMPLE)

    @property
    def selections(self) -> list[str]:
        """Names of the selections that are finished, those of the study file first, then those made anew."""
        return list(self._selections())

    def selection(self, name: str) -> pa.Table:
        """One line a chosen row, in pick order: id, rank, score, reason, source, task, tokens, answer_tokens."""
        places = self._selections()
        if not places:
            self._finished("select")
        known("selection", name, list(places))
        return (self._inputs.study / places[name]).read_table(TABLE)

    @property
    def runs(self) -> list[str]:
        """Names of the models that are evaluated: `base`, then one a selection and seed, as far as they are done."""
        return [name for name in (BASE, *self._runs) if self._inputs.has(f"evaluate/{name}")]

    def losses(self) -> pa.Table:
        """One line a run: run, method, seed, mean held-out loss of each target (nats), and `mean` over targets."""
        if not self.runs:
            self._finished("evaluate")
        losses = {name: self._finished(f"evaluate/{name}").read_json("manifest.json") for name in self.runs}
        return tables.loss_table({name: manifest["result"]["losses"] for name, manifest in losses.items()}, self._runs)

    def heldout(self, run: str, target: str) -> pa.Table:
        """Loss of a run on each held-out example of a target: id, loss (mean over answer tokens, nats)."""
        known("target", target, self.targets)
        known("run", run, [BASE, *self._runs])
        folder = self._finished(f"evaluate/{run}")
        if not folder.exists(f"{target}.parquet"):
            raise InputError(f"target {target!r} has no held-out rows; give targets.{target}.heldout")
        return folder.read_table(f"{target}.parquet")

    def comparison(self) -> pa.Table:
        """One line a method and target, and `mean`: method, target, loss, difference to the baseline, its low, high."""
        return tables.comparison_table(self.summary)

    @property
    def likelihoods(self) -> pa.Table:
        """The base model's losses of each row: id, loss of its answer, loss_alone without its instruction (nats)."""
        return self._inputs.likelihoods()

    @property
    def categories(self) -> pa.Table:
        """Category of each row of the pool: id, category."""
        found = self._inputs.category_of
        return pa.table({"id": list(found), "category": list(found.values())})

    def interaction(self, estimator: str | None = None) -> pa.Table:
        """What a row of one category is worth to another: added, evaluated, gamma, error (NaN where unknown).

        Args:
            estimator: by default that of the key `mixture`.
        """
        if self.config.mixture is None:
            raise InputError(f"{self.place} has no finished stage 'interaction'; run a study with the key `mixture`")
        chosen = estimator or self.config.mixture.estimator
        known("estimator", chosen, list(self.config.mixture.estimators))
        self._inputs.manifest(f"interaction/{chosen}")
        return (self._inputs.study / "interaction" / chosen).read_table("gamma.parquet")

    def trials(self) -> pa.Table:
        """Trials of a search, the best first: trial, keys of the space, objective, tokens, failed, stopped, losses."""
        folder = self._inputs.study / "search"
        if not folder.exists("trials.parquet"):
            raise InputError(f"{self.place} has no finished search; run `instsel search` with its study file")
        return folder.read_table("trials.parquet")

    def served(self, *names: str, attribution: str | None = None) -> pa.Table:
        """Whom selections serve: selection, target, rows, influence.

        `rows` are those whose influence is highest on the target (THI of BIDS), `influence` is the mean of the
        selection's, in deviations of the pool above the pool's mean.

        Args:
            names: of selections; by default all.
            attribution: of `influences`; by default that which the report's figures are by.
        """
        if attribution is not None:
            known("attribution", attribution, list(attribution_specs(self.config)))
        way = attribution_specs(self.config)[attribution] if attribution is not None else self._way
        chosen = {name: self.selection(name)["id"].to_pylist() for name in names or self.selections}
        return tables.served_table(selection_metrics(chosen, influence_matrix(self._inputs, way), self._inputs))

    def select(
        self,
        method: str,
        budget: int | float,
        *,
        targets: str | Sequence[str] | None = None,
        unit: Literal["rows", "tokens"] = "rows",
        attribution: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Make a selection as `instsel select` does and write it below `selections/`; what it warns of is warned.

        Args:
            method: its name: bids, less, ...
            budget: 0.1 is a share of the pool, 500 a count.
            targets: to choose for, by default all.
            unit: what the budget counts.
            attribution: cosine or fisher, by default as the study.
            name: of the selection, by default all that is asked for.
            options: of the method: delta=0.9.

        Returns:
            Name of the selection, for `selection` and `served`.
        """
        chosen = [targets] if isinstance(targets, str) else targets
        told = [f"{key}={json.dumps(value)}" for key, value in options.items()]
        wish = anew.SelectionRequest(method, str(budget), unit, chosen, told, attribution, name)
        made = anew.reselect(self.place, wish, lambda text: warnings.warn(text, stacklevel=2)).name
        return next(shown for shown, place in self._selections().items() if place == f"{anew.SELECTIONS}/{made}")

    def explain(self, row: str) -> Explanation:
        """Why a row was chosen or not: its rank in every selection, and the validation rows that it helps and hurts."""
        return explain(self.place, row)

    @cached_property
    def _runs(self) -> dict[str, Run]:
        return runs_of(self.config)

    def _finished(self, stage: str) -> Folder:
        if not self._inputs.has(stage):
            raise InputError(
                f"{self.place} has no finished stage {stage!r}; `instsel run` with its study file goes on from there"
            )
        return self._inputs.study / stage

    def _selections(self) -> dict[str, str]:
        """Name of each selection -> its folder; one made anew that is called as one of the study is told by both."""
        own = dict.fromkeys(run.selection for run in self._runs.values())
        found = {name: f"select/{name}" for name in own if self._inputs.has(f"select/{name}")}
        for name in anew.reselections(self._inputs):
            place = f"{anew.SELECTIONS}/{name}"
            found[place if name in found else name] = place
        return found


SHARED = ("attribution", "interaction")
COLUMNS = pa.schema(
    {
        "stage": pa.string(),
        "done": pa.bool_(),
        "current": pa.bool_(),
        "seconds": pa.float64(),
        "tokens": pa.int64(),
        "peak_memory_bytes": pa.int64(),
        "rows_reprocessed": pa.int64(),
        "version": pa.string(),
    }
)


def manifests(folder: Folder, names: Iterable[str]) -> dict[str, Manifest | None]:
    """What each stage that has begun says of itself, in the order of `names`; None of one that is not finished."""
    found: dict[str, Manifest | None] = {}
    for name in names:
        if (folder / name).exists(MANIFEST):
            found[name] = read_manifest(folder / name)
        elif (folder / name).exists(STARTED):
            found[name] = None
    return found


def left_over(folder: Folder, names: Collection[str]) -> list[str]:
    """Stages of an earlier study file from which some that are still of use may have been made."""
    found = [f"{stage}/{name}" for stage in SHARED for name in (folder / stage).names()]
    return [name for name in found if name not in names]


def outdated(
    found: Mapping[str, Manifest | None], beside: Mapping[str, Manifest | None], changed: Collection[str] = ()
) -> list[str]:
    """Finished stages that were made by another study file, or from other stages than are there now, or from such ones.

    Args:
        found: stage -> its manifest, in the order in which they run.
        beside: the same of stages that are only looked up.
        changed: stages that were made by another study file, see `stale_stages`.
    """
    old: list[str] = []
    for name, manifest in found.items():
        parents = manifest["parents"] if manifest is not None else {}
        there = {parent: found.get(parent) or beside.get(parent) for parent in parents}
        if name in changed or any(parent in old or not _is(there[parent], mark) for parent, mark in parents.items()):
            old.append(name)
    return old


def stage_table(
    found: Mapping[str, Manifest | None], beside: Mapping[str, Manifest | None], changed: Collection[str] = ()
) -> pa.Table:
    """One line a stage that has begun, with what its last run took: see `Study.stages`, and `outdated`."""
    old = outdated(found, beside, changed)
    lines = []
    for name, manifest in found.items():
        line: dict[str, Any] = {"stage": name, "done": manifest is not None, "current": False}
        if manifest is not None:
            line |= {"current": name not in old, "version": manifest["code_version"]}
            # Studies of before 0.4 do not count rows that were done again.
            line |= {"rows_reprocessed": 0, **manifest["cost"]}
        lines.append(line)
    return pa.Table.from_pylist(lines, COLUMNS)


def _is(manifest: Manifest | None, fingerprint: str) -> bool:
    return manifest is not None and manifest["fingerprint"] == fingerprint
