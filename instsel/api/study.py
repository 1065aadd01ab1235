"""`instsel.open_study`: the results of a study as tables and arrays, and new selections from it."""

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
from instsel.api.tables import StudyArrays, require_known
from instsel.choice.explain import Explanation, explain
from instsel.choice.influence import influence_matrix
from instsel.choice.metrics import selection_metrics
from instsel.choice.output import TABLE
from instsel.choice.reselect import SELECTIONS, SelectionRequest, reselect, reselections
from instsel.choice.reselect import open_study as read_study
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.attribution_specs import attribution_specs
from instsel.study.folder import MANIFEST, STARTED, Manifest, read_manifest
from instsel.study.graph import stale_settings
from instsel.study.runs import BASE, Run, runs_of

MOST_NAMED = 5
EXAMPLE = ["id", "task", "messages", "tokens", "answer_tokens"]


def open_study(path: str | Path) -> "Study":
    """Open a study's folder; warns where results in it were made from other results than are there now.

    Raises:
        InputError: the folder holds no study.
    """
    uri = str(path)
    if "://" not in uri:
        uri = os.path.abspath(os.path.expanduser(uri))
    study = Study(uri, *read_study(uri))
    old = study.stages.filter(pc.field("done") & ~pc.field("current"))["stage"].to_pylist()
    if old:
        named = f"{', '.join(old[:MOST_NAMED])}{', ...' if len(old) > MOST_NAMED else ''}"
        warnings.warn(
            f"{uri}: {named} not of the other results that are there now; they were edited, or are of another study "
            "file: run the study again",
            stacklevel=2,
        )
    return study


class Study(StudyArrays):
    """A study's folder, read lazily; nothing in it is run, and only `select` writes.

    Tables are Arrow tables: `.to_pandas()` makes a data frame. What the study lacks is an `InputError` that names the
    stage; so is what combines several stages (`attribution`, `features`, `select`, ...) that are not of one another.

    Attributes:
        path: of the folder.
        config: the study file as it was last run, with every default.
    """

    def __repr__(self) -> str:
        return f"<Study {self.name!r} in {self.path}>"

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name

    @cached_property
    def stages(self) -> pa.Table:
        """A line a stage of the study file that has started.

        stage, done, current (done, and of the stages before it as they are now), seconds, tokens, peak_memory_bytes (of
        a process), rows_reprocessed (whose work was done again), version (of instsel).
        """
        folder, settings = self._reader.study, self._reader.stages()
        others = manifests(folder, former_stages(folder, list(settings)))
        current = manifests(folder, list(settings))
        return stage_table(current, others, stale_settings(settings, current))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Everything that the report shows, `report/summary.json`: `instsel.report.facts.StudyFacts` as JSON."""
        facts: dict[str, Any] = self._finished("report").read_json("summary.json")
        return facts

    @property
    def pool(self) -> pa.Table:
        """A line a row of the pool: id, source, task, tokens, answer_tokens, shard."""
        return self._reader.index

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """Read rows in the order of `ids`: id, source, task, messages, tokens, answer_tokens, file, line."""
        return tables.row_table(self._reader, list(ids))

    def examples(self, target: str, split: Literal["validation", "heldout"] = "validation") -> pa.Table:
        """Read the examples of a target: id, task, messages, tokens, answer_tokens."""
        require_known("target", target, self.targets)
        splits = self._reader.prepared.targets.get(target, {})
        if split not in splits:
            raise InputError(f"target {target!r} has no {split!r} rows; it has {', '.join(splits)}")
        return (self._reader.study / "prepare" / "targets" / target).read_table(f"{split}.parquet", EXAMPLE)

    @property
    def selections(self) -> list[str]:
        """Names of the selections that are finished, those of the study file first, then those of `select`."""
        return list(self._selections())

    def selection(self, name: str) -> pa.Table:
        """Read the rows of a selection, in pick order: id, rank, score, reason, source, task, tokens, answer_tokens."""
        folders = self._selections()
        if not folders:
            self._finished("select")
        require_known("selection", name, list(folders))
        return (self._reader.study / folders[name]).read_table(TABLE)

    @property
    def runs(self) -> list[str]:
        """Names of the evaluated models: `base`, then those of each selection and seed."""
        return [name for name in (BASE, *self._runs) if self._reader.has(f"evaluate/{name}")]

    def losses(self) -> pa.Table:
        """Return a line a run: run, method, seed, mean held-out loss of each target (nats), and `mean` over targets.

        Of several budgets the method has its own: `bids@0.05`.

        With `evaluation.form_and_content` also `form` and `content`, what its gain over the base model consists of:
        means over the targets that have other answers. `gains` has them by target.
        """
        if not self.runs:
            self._finished("evaluate")
        results = {name: read_manifest(self._finished(f"evaluate/{name}"))["result"] for name in self.runs}
        table = tables.loss_table({name: result["losses"] for name, result in results.items()}, self._runs)
        if not self.config.evaluation.form_and_content:
            return table
        return tables.with_gains(table, self._reader.study / "evaluate", self.targets)

    def gains(self) -> pa.Table:
        """Return a line a method and target, or `mean`: items, form, content, and the bounds of both, as in the report.

        Of several budgets it is the largest.

        Columns: method, target, items, form, form_low, form_high, content, content_low, content_high; nats a token.
        """
        if not self.config.evaluation.form_and_content:
            raise InputError(f"{self.path} has no gains of answers; run it with evaluation.form_and_content: true")
        return tables.gain_table(self.summary)

    def accuracy(self) -> pa.Table:
        """Read the scores of every run on the test items of targets and guards, a line a run and item.

        run, method, seed, target, item (digest of the prompt), answer, right (answer), correct (the metric, mostly 0 or
        1), probability (of the right option; null where answers are generated), found (whether the filter found an
        answer). Runs are in the order of the study file, the base model first.
        """
        names = [name for name in (BASE, *self._runs) if self._reader.has(f"accuracy/{name}")]
        if not names:
            self._finished("accuracy")
        folders = {name: self._finished(f"accuracy/{name}") for name in names}
        return tables.accuracy_table(folders, self.config.measured, self._runs)

    def heldout(self, run: str, target: str) -> pa.Table:
        """Read the loss of a run on each held-out example of a target: id, loss (mean over answer tokens, nats)."""
        require_known("target", target, self.targets)
        require_known("run", run, [BASE, *self._runs])
        folder = self._finished(f"evaluate/{run}")
        if not folder.exists(f"{target}.parquet"):
            raise InputError(f"target {target!r} has no held-out rows; give targets.{target}.heldout")
        return folder.read_table(f"{target}.parquet")

    def comparison(self) -> pa.Table:
        """Return a line a method and target, or `mean`: method, target, loss, difference to the baseline, its p-value.

        Columns `low` and `high` have the difference's interval; `adjusted_p` its p-value, adjusted over the methods.
        """
        return tables.comparison_table(self.summary)

    @property
    def likelihoods(self) -> pa.Table:
        """The base model's losses of each row: id, loss of its answer, loss_alone without its instruction (nats)."""
        return self._reader.likelihoods()

    @property
    def categories(self) -> pa.Table:
        """Category of each row of the pool: id, category."""
        return pa.table({"id": self._reader.ids, "category": self._reader.categories.cast(pa.string())})

    def interaction(self, estimator: str | None = None) -> pa.Table:
        """Read what a row of a category is worth to another: added, evaluated, gamma, error (NaN where unknown).

        Args:
            estimator: by default that of the key `mixture`.
        """
        if self.config.mixture is None:
            raise InputError(f"{self.path} has no finished stage 'interaction'; run a study with the key `mixture`")
        chosen = estimator or self.config.mixture.estimator
        require_known("estimator", chosen, list(self.config.mixture.estimators))
        self._reader.manifest(f"interaction/{chosen}")
        return (self._reader.study / "interaction" / chosen).read_table("gamma.parquet")

    def trials(self) -> pa.Table:
        """Read trials of a search, the best first: trial, keys of the space, objective, tokens, failed, losses ..."""
        folder = self._reader.study / "search"
        if not folder.exists("trials.parquet"):
            raise InputError(f"{self.path} has no finished search; run `instsel search` with its study file")
        return folder.read_table("trials.parquet")

    def served(self, *names: str, attribution: str | None = None) -> pa.Table:
        """Return which targets selections serve: selection, target, rows, influence.

        `rows` are those whose influence is highest on the target (THI of BIDS), `influence` is the mean of the
        selection's, in deviations of the pool above the pool's mean.

        Args:
            names: of selections; by default all.
            attribution: of `influences`; by default that of the report's metrics.
        """
        if attribution is not None:
            require_known("attribution", attribution, list(attribution_specs(self.config)))
        spec = attribution_specs(self.config)[attribution] if attribution is not None else self._metrics_spec
        chosen = {name: self.selection(name)["id"].to_pylist() for name in names or self.selections}
        return tables.served_table(selection_metrics(chosen, influence_matrix(self._reader, spec), self._reader))

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
        """Make a selection as `instsel select` does and write it below `selections/`; its warnings are Python warnings.

        Args:
            method: its name: bids, less, ...
            budget: 0.1 is a share of the pool, 500 a count.
            targets: to choose for, by default all.
            unit: what the budget counts.
            attribution: cosine, fisher or contrast, by default as the study.
            name: of the selection, by default made of the other arguments.
            options: of the method: delta=0.9.

        Returns:
            Name of the selection, for `selection` and `served`.
        """
        chosen = [targets] if isinstance(targets, str) else targets
        settings = [f"{key}={json.dumps(value)}" for key, value in options.items()]
        request = SelectionRequest(method, str(budget), unit, chosen, settings, attribution, name)
        selection = reselect(self.path, request, lambda text: warnings.warn(text, stacklevel=2))
        path = f"{SELECTIONS}/{selection.name}"
        return next(shown for shown, its_path in self._selections().items() if its_path == path)

    def explain(self, row: str) -> Explanation:
        """Explain why a row was selected or not: its rank in every selection, validation rows it helps and hurts."""
        return explain(self.path, row)

    @cached_property
    def _runs(self) -> dict[str, Run]:
        return runs_of(self.config)

    def _finished(self, stage: str) -> Folder:
        if not self._reader.has(stage):
            raise InputError(
                f"{self.path} has no finished stage {stage!r}; `instsel run` with its study file resumes from there"
            )
        return self._reader.study / stage

    def _selections(self) -> dict[str, str]:
        """Return selection -> path of its folder; the path is the name where the study file has one of that name."""
        names = dict.fromkeys(run.selection for run in self._runs.values())
        paths = {name: f"select/{name}" for name in names if self._reader.has(f"select/{name}")}
        for name in reselections(self._reader):
            path = f"{SELECTIONS}/{name}"
            paths[path if name in paths else name] = path
        return paths


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
    """Read the manifest of each stage that has started, in the order of `names`; None where it is not finished."""
    by_name: dict[str, Manifest | None] = {}
    for name in names:
        if (folder / name).exists(MANIFEST):
            by_name[name] = read_manifest(folder / name)
        elif (folder / name).exists(STARTED):
            by_name[name] = None
    return by_name


def former_stages(folder: Folder, names: Collection[str]) -> list[str]:
    """Name stages of an earlier study file from which some that are still of use may have been made."""
    stored = [f"{stage}/{key}" for stage in SHARED for key in (folder / stage).names()]
    return [name for name in stored if name not in names]


def outdated(
    current: Mapping[str, Manifest | None], others: Mapping[str, Manifest | None], stale: Collection[str] = ()
) -> list[str]:
    """Name the stages that were made by another study file or from other stages than are there now, and those after.

    Args:
        current: stage -> its manifest, in the order in which they run.
        others: the same of stages that may be parents.
        stale: stages that were made by another study file.
    """
    marks = {name: manifest["fingerprint"] for name, manifest in {**others, **current}.items() if manifest is not None}
    old: list[str] = []
    for name, manifest in current.items():
        parents = manifest["parents"] if manifest is not None else {}
        if name in stale or any(parent in old or marks.get(parent) != mark for parent, mark in parents.items()):
            old.append(name)
    return old


def stage_table(
    current: Mapping[str, Manifest | None], others: Mapping[str, Manifest | None], stale: Collection[str] = ()
) -> pa.Table:
    """Return a line a stage that has started, with what its last run took: see `Study.stages`, and `outdated`."""
    old = outdated(current, others, stale)
    lines: list[dict[str, object]] = []
    for name, manifest in current.items():
        if manifest is None:
            lines.append({"stage": name, "done": False, "current": False})
            continue
        line = {"stage": name, "done": True, "current": name not in old, "version": manifest["code_version"]}
        lines.append({**line, **manifest["cost"]})
    return pa.Table.from_pylist(lines, COLUMNS)
