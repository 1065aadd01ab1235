"""The schema of `pool`, `targets` and `guards`: files, benchmarks, and how answers are scored."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from instsel.io.uri import checked_uri
from instsel.strict import StrictModel

RowFormat = Literal["auto", "messages", "alpaca", "sharegpt"]
Uri = Annotated[str, AfterValidator(checked_uri)]
Column = Literal[
    "messages",
    "prompt",
    "input",
    "answer",
    "system",
    "history",
    "reasoning",
    "tools",
    "choices",
    "task",
    "source",
    "id",
]
Role = Literal["system", "user", "assistant", "tool"]
File = Literal["validation", "heldout", "test"]
OfFiles = str | dict[File, str] | None
"""One value for all files of a target or guard, or one for each."""


class Layout(StrictModel):
    """Where rows have what; parts of pool entries, targets and guards."""

    format: RowFormat = Field("auto", description="format of the rows; auto detects it from their keys")
    columns: dict[Column, str | list[str]] = Field(
        {},
        description="names of columns that are not known by themselves, such as {prompt: ask, answer: reply}; several "
        "for choices",
    )
    roles: dict[str, Role] = Field(
        {}, description="names of roles that are not known by themselves, such as {narrator: system}"
    )

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[Column, str | list[str]]) -> dict[Column, str | list[str]]:
        if ("prompt" in columns) != ("answer" in columns):
            raise ValueError("`prompt` and `answer` belong together; name the columns of both")
        if "messages" in columns and "prompt" in columns:
            raise ValueError("give `messages`, or `prompt` and `answer`")
        beside = next((name for name in ("input", "history", "reasoning") if name in columns), None)
        if "messages" in columns and beside is not None:
            raise ValueError(f"`{beside}` belongs to a prompt and its answer, not to `messages`; remove it")
        several = sorted(name for name, column in columns.items() if isinstance(column, list) and name != "choices")
        if several:
            raise ValueError(f"`{several[0]}` is one column; only choices stand in several")
        return columns


class PoolSource(Layout):
    path: Uri = Field(
        description="file, glob or URI of JSON lines, JSON, CSV, Parquet or Arrow, a folder of them, or hf:OWNER/NAME"
    )
    source: str | None = Field(
        None, description="name shown for these rows; by default the row's `source`, else the file"
    )
    split: str = Field(
        "train", description="split of a dataset: of the hub, of a folder, or of a JSON object of several"
    )
    config: str | None = Field(None, description="configuration (subset) of a dataset of the hub or of a clone of one")
    revision: str | None = Field(None, description="branch, tag or commit of a dataset of the hub")
    rows_per_file: int | None = Field(None, ge=1, description="read only the first N rows of each file")
    allow_empty: bool = Field(False, description="go on where the files are empty or give no usable row")


METRICS = ("choice", "exact_match", "f1", "rouge_l", "code")


class Scoring(StrictModel):
    metric: str | None = Field(
        None,
        description="of test rows: choice (the most probable option), exact_match, f1 or rouge_l (of a generated "
        "answer), code (a generated program that passes the row's `tests`); of a task: one of its metrics, by default "
        "its first",
    )
    filter: str | None = Field(
        None,
        description="of test rows: regular expression whose first group, in its last match, is the answer; of a task: "
        "one of its filters, by default its first",
    )
    max_tokens: int = Field(256, ge=1, description="most tokens of a generated answer")
    until: list[str] = Field([], description="texts that end a generated answer, beside the model's end of turn")


class Benchmark(Layout):
    """What targets and guards have in common: what is scored, and how."""

    task: str | None = Field(
        None, description="task of lm-evaluation-harness by name, or the path of its YAML file, in place of files"
    )
    test: Uri | None = Field(None, description="file of prompts with `answer`, whose score measures the result")
    scoring: Scoring | None = Field(None, description="how answers to `test` are scored; a name is short for a metric")
    by: Literal["auto", "letter", "cloze", "pmi"] = Field(
        "auto",
        description="choices by the letter of an option, or by its text with no option shown: cloze by log-probability "
        "per character, pmi by what the question adds to it; auto is cloze for models below 1B parameters, else letter",
    )
    shots: int | None = Field(None, ge=0, description="worked examples before each item of a task; default the task's")
    max_test: int | None = Field(None, ge=1, description="score at most the first N test rows")

    split: OfFiles = Field(
        None,
        description="split of files that have several: a dataset of the hub, a folder, a JSON object; one for all "
        "files, or {validation: train, test: test}",
    )
    config: OfFiles = Field(None, description="configuration (subset) of such datasets, for all files or by file")
    revision: OfFiles = Field(None, description="revision of datasets of the hub, for all files or by file")

    @field_validator("scoring", mode="before")
    @classmethod
    def _name_of_metric(cls, value: object) -> object:
        return {"metric": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_scoring(self) -> "Benchmark":
        if self.test is None or self.scoring is None:
            return self
        if self.scoring.metric not in METRICS:
            raise ValueError(
                f"scoring.metric is {self.scoring.metric!r}; of test rows it is one of {', '.join(METRICS)}"
            )
        if self.scoring.filter is not None and self.scoring.metric == "choice":
            raise ValueError("scoring.filter: choices are not generated, so nothing is to be found in them; remove it")
        return self

    @model_validator(mode="after")
    def _check_files(self) -> "Benchmark":
        files: list[str] = [name for name in get_args(File) if getattr(self, name, None) is not None]
        for key in ("split", "config", "revision"):
            value = getattr(self, key)
            unknown = [] if files and not isinstance(value, dict) else sorted({*(value or ())} - {*files})
            if value is not None and not files:
                raise ValueError(f"`{key}` is of files, and there are none; remove it")
            if unknown:
                raise ValueError(f"`{key}` names {unknown[0]}, which is not given; remove it, or give the file")
        return self

    def of_file(self, key: Literal["split", "config", "revision"], file: File) -> str | None:
        """Return the split, configuration or revision of a file."""
        value: OfFiles = getattr(self, key)
        return value.get(file) if isinstance(value, dict) else value

    @property
    def is_scored(self) -> bool:
        """Whether answers to test rows are scored."""
        return self.task is not None or self.test is not None


class Target(Benchmark):
    validation: Uri | None = Field(
        None, validate_default=True, description="file of examples of the ability; gradients are taken of these"
    )
    heldout: Uri | None = Field(None, description="file of other examples, whose loss measures the result")
    served_by: list[str] | None = Field(
        None,
        min_length=1,
        description="sources of the pool whose rows are known to serve the target, for evaluation.headroom; default "
        "its own validation rows, by folds",
    )
    subtask: str | None = Field(None, description="column that divides the target into subtasks")
    max_validation: int | None = Field(None, ge=1, description="use at most N validation rows, a fixed uniform sample")
    max_heldout: int | None = Field(None, ge=1, description="use at most N held-out rows, a fixed uniform sample")

    @field_validator("validation")
    @classmethod
    def _check_validation(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("task") is None:
            raise PydanticCustomError(
                "missing", "is missing; give a file of examples, or `task`, a benchmark of lm-evaluation-harness"
            )
        return value

    @model_validator(mode="after")
    def _check_sources(self) -> "Target":
        if self.task is not None and (self.test is not None or self.heldout is not None):
            raise ValueError("a target with `task` is scored on that; remove `test` and `heldout`, or `task`")
        if self.task is None and (self.test is None) != (self.scoring is None):
            raise ValueError("`test` and `scoring` belong together; give both or neither")
        return self

    @property
    def is_evaluated(self) -> bool:
        """Whether it has held-out rows, whose loss is taken."""
        return self.task is not None or self.heldout is not None


class Guard(Benchmark):
    margin: float = Field(1.0, ge=0, description="points of 100 that the score may fall below the base model's")

    @model_validator(mode="after")
    def _check_sources(self) -> "Guard":
        if self.task is not None and self.test is not None:
            raise ValueError("give either `task`, a benchmark of lm-eval, or `test`, a file of prompts with answers")
        if self.test is not None and self.scoring is None:
            raise ValueError("`test` needs `scoring`")
        return self
