"""The schema of study files: every key with its type, default and meaning."""

import datetime as dt
import os
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from instsel.config.evaluation import Evaluation
from instsel.config.mixture import Curriculum, Mixture
from instsel.config.rows import Benchmark, Guard, PoolSource, Target, Uri
from instsel.config.search import Search
from instsel.config.training import Training
from instsel.filters.base import name_filters
from instsel.filters.registry import AnyFilter
from instsel.mixture.curriculum import PASSES
from instsel.selection.base import Form, Method, Quotas
from instsel.selection.registry import AnyMethod
from instsel.strict import StrictModel, usable_name


class Data(StrictModel):
    max_length: int = Field(1024, ge=8, description="longest example in tokens; longer ones are truncated at the end")
    shard_rows: int = Field(1000, ge=1, description="rows of a pool file per shard, the unit of work and of resuming")
    leak_words: int = Field(
        13, ge=3, description="pool rows that share this many consecutive words with a target are dropped"
    )
    train_on: Literal["all", "last", "marked"] = Field(
        "all",
        description="answers of a conversation that are trained on: all, the last, or those with a loss mark; an "
        "answer that a loss mark keeps from it never is",
    )
    reasoning: Literal["train", "mask", "drop"] = Field(
        "train", description="what was thought before an answer: train on it, show it without training, or drop it"
    )
    system: Literal["keep", "first_user", "drop"] = Field(
        "keep", description="system turns: keep them, put them before the next user turn, or drop them"
    )
    date: dt.date | None = Field(
        None, description="date that chat templates write which have today's in them; default the day of stage prepare"
    )
    preference: Literal["chosen", "reject"] = Field(
        "chosen", description="rows of answers chosen and rejected: train on the chosen one, or reject the row"
    )
    filters: list[AnyFilter] = Field(
        [], description="filters of pool rows, applied in this order; rejected rows are counted by their reasons"
    )

    near_duplicates: Literal["report", "drop", "off"] = Field(
        "report",
        description="rows of the pool that are nearly the same as an earlier one: counted in the report, dropped, or "
        "not looked for",
    )
    near_duplicate_threshold: float = Field(
        0.6,
        description="least Jaccard similarity of the three-word shingles of two rows that count as near-copies, from "
        "0.5; 1 finds only rows with the same words",
    )

    @field_validator("filters")
    @classmethod
    def _name_filters(cls, filters: list[AnyFilter]) -> list[AnyFilter]:
        name_filters(filters)
        return filters

    @field_validator("near_duplicate_threshold")
    @classmethod
    def _check_threshold(cls, threshold: float) -> float:
        if not 0.5 <= threshold <= 1:
            raise ValueError(
                f"near_duplicate_threshold is {threshold}; write a similarity from 0.5, half of the text the same, to "
                "1, the same words"
            )
        return threshold


class Model(StrictModel):
    name: Uri = Field(
        description="folder, URI of a folder, or hub id of the model that selects and is trained; one behind a URI is "
        "copied once to each machine"
    )
    revision: str | None = Field(None, description="revision of a hub model; of one behind a URI, its content")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="dtype of frozen weights and activations; auto is bfloat16 if all machines that do the work "
        "support it natively, else float32, and is decided once per study",
    )
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        None, description="attention implementation of transformers; default its own choice, mostly sdpa"
    )
    chat_template: str | None = Field(None, description="path of a Jinja chat template that replaces the tokenizer's")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")


class Lora(StrictModel):
    rank: int = Field(8, ge=1, description="rank of the LoRA matrices")
    alpha: float = Field(16.0, gt=0, description="LoRA scale; updates are multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout while training")
    target_modules: list[str] | Literal["all-linear"] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"], description="names of the modules that get LoRA matrices"
    )


class Warmup(Training):
    epochs: int = Field(4, ge=1, description="passes over the warmup rows; each ends with a checkpoint")
    share: float = Field(0.05, gt=0, le=1, description="fraction of the pool that the warmup trains on")


class Features(StrictModel):
    dim: int = Field(8192, ge=16, description="dimension of the gradient sketch")
    seed: int = Field(0, ge=0, description="seed of the sketch")
    storage: Literal["float16", "int8"] = Field(
        "float16", description="dtype of stored sketches; int8 takes half the disk and rounds more"
    )
    token_budget: int = Field(4096, ge=16, description="padded tokens of one backward pass")


class Answers(StrictModel):
    others: int = Field(4, ge=1, description="most other answers to a prompt")
    seed: int = Field(0, ge=0, description="seed of the draw, where there are more")


class Embedding(StrictModel):
    encoder: Uri = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="folder, URI of a folder, or hub id of the model that embeds prompts",
    )
    revision: str | None = Field(None, description="revision of a hub encoder; of one behind a URI, its content")
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto", description="pooling of token vectors; auto uses the encoder's configuration, else the mean"
    )
    max_length: int = Field(256, ge=2, description="longest prompt in tokens; longer ones are truncated at the end")
    token_budget: int = Field(8192, ge=16, description="padded tokens of one forward pass")


def _number_or_list(value: Any) -> str:
    return "list" if isinstance(value, list) else "number"


# Told apart before they are checked, so that an error is of what was written.
Budgets = Annotated[
    Annotated[int | float, Tag("number")] | Annotated[list[int | float], Tag("list")], Discriminator(_number_or_list)
]


class SelectionPart(StrictModel):
    budget: Budgets = Field(
        description="rows to choose (or tokens, see unit): a whole number is a count, a number with a point a share; "
        "with a list every method selects and is trained for each of them"
    )
    unit: Literal["rows", "tokens"] = Field("rows", description="what the budget counts")
    attribution: Form = Field(
        "cosine",
        description="influence that methods read: plain cosines, products preconditioned by the pool's Fisher matrix, "
        "or cosines with gradients towards right answers against others",
    )
    damping: float = Field(0.1, gt=0, description="damping of fisher, in units of the matrix' mean eigenvalue")
    quotas: Quotas | None = Field(
        None,
        description="share of the picks that each target chooses by itself, for methods that read influence and for "
        "bm25: `equal`, or shares that sum to 1; default: all targets are chosen for together",
    )
    include_validation: bool = Field(
        False, description="train on the validation rows of all targets too, beside the rows of every selection"
    )
    methods: list[AnyMethod] = Field(min_length=1, description="selections to make, all of the same budgets")

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: Budgets) -> Budgets:
        amounts = budget if isinstance(budget, list) else [budget]
        for amount in amounts:
            if amount <= 0:
                raise ValueError(f"budget is {amount}; write a share above 0 (0.1) or a count of at least 1 (500)")
            if isinstance(amount, float) and amount > 1:
                raise ValueError(
                    f"budget is the share {amount}, above 1; write a whole number to choose that many rows"
                )
        if not amounts:
            raise ValueError("budget is an empty list; write one budget or more")
        if len({type(amount) for amount in amounts}) > 1:
            raise ValueError(f"budget has shares and counts, {amounts}; write all as shares or all as counts")
        if len(set(amounts)) < len(amounts):
            raise ValueError(f"budget has an amount twice, {amounts}; keep one of them")
        return budget

    @property
    def budgets(self) -> list[int | float]:
        """The budgets, smallest first."""
        return sorted(self.budget) if isinstance(self.budget, list) else [self.budget]

    @property
    def largest_budget(self) -> int | float:
        """The budget, or the largest of several, at which methods are judged."""
        return self.budgets[-1]

    @field_validator("methods")
    @classmethod
    def _check_names(cls, methods: list[AnyMethod]) -> list[AnyMethod]:
        names = [method.name for method in methods]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two methods are called {twice[0]!r}; give one of them another `name`")
        for name in names:
            usable_name(name)
            if name == "base":
                raise ValueError("a method cannot be called 'base': the report's untrained model has that name")
        return methods


class Resources(StrictModel):
    ray_address: str | None = Field(
        None, description="address of a running Ray cluster; by default one is started locally"
    )
    actors: int | None = Field(
        None,
        ge=1,
        description="model actors for features, evaluation; default one per GPU, without GPUs two per machine",
    )
    gpus_per_actor: float | None = Field(
        None,
        gt=0,
        description="GPUs per actor: 0.5 for two actors on a GPU, 2 for a model spread over two; default 1 if any",
    )
    threads_per_actor: int | None = Field(None, ge=1, description="CPU threads of an actor; default its part of a node")
    training_workers: int | None = Field(
        None, ge=1, description="Ray Train workers; default one per GPU, without GPUs two per machine"
    )
    trial_workers: int | None = Field(
        None,
        ge=1,
        description="Ray Train workers of each concurrent run: interventions and trials of a search, default 1; runs "
        "of finetune only if it is given, by default each in turn has the whole cluster",
    )
    max_failures: int = Field(3, ge=0, description="worker failures that a training run survives")
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="minutes between checkpoints inside an epoch; the most training that a failure can lose"
    )
    gpus: int | None = Field(
        None, ge=1, description="GPUs to request from an autoscaling cluster, wait for, and keep until the end"
    )
    cpus: int | None = Field(None, ge=1, description="the same for CPUs: wait until the cluster has this many")
    wait_minutes: float = Field(
        30.0, ge=0, description="minutes to wait for these; then a run continues with those available, if any"
    )

    max_gpus: int | None = Field(
        None, ge=1, description="most GPUs that a study holds at a time; default all that are free when it starts"
    )
    accelerator: str | None = Field(
        None, description="type of GPU to use, where a cluster has several, by Ray's names: A100, H100, L4"
    )
    max_gpu_hours: float | None = Field(
        None, gt=0, description="GPU hours after which a command ends; the same command resumes, with as many again"
    )
    stall_minutes: float = Field(
        30.0,
        gt=0,
        description="minutes without any progress after which actors or training workers are given up; after the first "
        "minute the study says what it waits for",
    )

    @field_validator("gpus_per_actor")
    @classmethod
    def _check_gpus(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_actor is {gpus}; above 1 it has to be a whole number")
        return gpus

    @model_validator(mode="after")
    def _check_most_gpus(self) -> "Resources":
        for key in ("gpus", "gpus_per_actor"):
            asked = getattr(self, key)
            if self.max_gpus is not None and asked is not None and asked > self.max_gpus:
                raise ValueError(
                    f"{key} is {asked:g}, above max_gpus, which is {self.max_gpus}; raise one or lower the other"
                )
        return self


class DeepSpeed(StrictModel):
    stage: Literal[0, 1, 2, 3] = Field(2, description="ZeRO stage")
    config: str | None = Field(None, description="path of a DeepSpeed JSON that replaces the stage")


class Tracking(StrictModel):
    tensorboard: str | None = Field(None, description="folder for event files of TensorBoard, a path")
    mlflow: Uri | None = Field(None, description="tracking URI of MLflow: http://HOST:5000, sqlite:///mlflow.db")
    wandb: str | None = Field(None, description="project at Weights & Biases; the key is WANDB_API_KEY's")

    @field_validator("tensorboard")
    @classmethod
    def _check_path(cls, path: str | None) -> str | None:
        if path is not None and "://" in path:
            raise ValueError("event files are appended to, which object stores cannot do; give a local path")
        # Absolute, as training processes may have another working directory.
        return None if path is None else os.path.abspath(os.path.expanduser(path))


class StudyConfig(StrictModel):
    """A study file. Relative paths are relative to `root`, and `root` to the working directory of the command."""

    name: str = Field(description="name of the study")
    out: Uri = Field(description="folder of the study: a local path or a URI such as s3://bucket/folder")
    root: Uri = Field(".", description="folder that pool and target paths are relative to")
    model: Model = Field(description="model that selects and is trained")
    pool: list[PoolSource] = Field(min_length=1, description="files of the pool")
    targets: dict[str, Target] = Field(
        {}, description="abilities the selection is for; methods that read influence, hidden states or prompts need one"
    )
    guards: dict[str, Guard] = Field(
        {}, description="abilities that training must not harm: scored, and never selected for"
    )
    data: Data = Field(Data(), description="conversion of rows to examples")
    lora: Lora = Field(Lora(), description="LoRA of warmup and finetune")
    warmup: Warmup = Field(Warmup(), description="training that makes the checkpoints for gradients")
    features: Features = Field(Features(), description="gradient sketches")
    answers: Answers = Field(
        Answers(),
        description="other answers that right ones are compared with: attribution: contrast, form_and_content",
    )
    embedding: Embedding = Field(Embedding(), description="prompt embeddings, for the methods that read them")
    selection: SelectionPart = Field(description="budget and methods")
    mixture: Mixture | None = Field(None, description="shares of categories, for methods that keep to them")
    curriculum: Curriculum = Field(Curriculum(), description="levels of categories, for training orders by level")
    finetune: Training = Field(Training(), description="training on each selection")
    search: Search | None = Field(None, description="search space and limits of `instsel search`")
    evaluation: Evaluation = Field(Evaluation(), description="held-out losses and their intervals")
    resources: Resources = Field(Resources(), description="resources of the cluster to use; never changes results")
    tracking: Tracking = Field(
        Tracking(), description="experiment trackers that losses are logged to; never changes results"
    )
    deepspeed: DeepSpeed = Field(DeepSpeed(), description="DeepSpeed of warmup and finetune")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return usable_name(name)

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: dict[str, Target]) -> dict[str, Target]:
        for name in targets:
            usable_name(name)
        if "mean" in targets:
            raise ValueError("a target cannot be called 'mean': the report's mean over targets has that name")
        return targets

    @field_validator("guards")
    @classmethod
    def _check_guards(cls, guards: dict[str, Guard]) -> dict[str, Guard]:
        for name in guards:
            usable_name(name)
        return guards

    @property
    def scored(self) -> dict[str, Benchmark]:
        """Targets and guards whose answers to test rows are scored."""
        everything: dict[str, Benchmark] = {**self.targets, **self.guards}
        return {name: each for name, each in everything.items() if each.is_scored}

    @property
    def commanded(self) -> list[str]:
        """Targets and guards that `evaluation.command` scores."""
        return [] if self.evaluation.command is None else self.evaluation.command.scores

    @property
    def measured(self) -> list[str]:
        """Targets and guards with scores, in the order of the study file."""
        return [name for name in (*self.targets, *self.guards) if name in self.scored or name in self.commanded]

    @model_validator(mode="after")
    def _check_command(self) -> "StudyConfig":
        for name in self.commanded:
            if name not in self.targets and name not in self.guards:
                raise ValueError(f"evaluation.command.scores: {name!r} is neither a target nor a guard")
            if name in self.scored:
                raise ValueError(f"evaluation.command.scores: {name!r} has test rows already; remove one of the two")
        for name, guard in self.guards.items():
            if not guard.is_scored and name not in self.commanded:
                raise ValueError(
                    f"guards.{name}: give `task`, a benchmark of lm-eval, or `test`, a file of prompts with answers, "
                    "or name it in evaluation.command.scores"
                )
        return self

    @model_validator(mode="after")
    def _check_code_may_run(self) -> "StudyConfig":
        for name, each in self.scored.items():
            if each.scoring is not None and each.scoring.metric == "code" and not self.evaluation.run_code:
                part = "targets" if name in self.targets else "guards"
                raise ValueError(
                    f"{part}.{name}.scoring: code runs what a model wrote, in a child process without network; allow "
                    "it by evaluation.run_code: true"
                )
        return self

    @model_validator(mode="after")
    def _check_methods_fit(self) -> "StudyConfig":
        clash = sorted({"form", "content"} & self.targets.keys()) if self.evaluation.form_and_content else []
        if clash:
            raise ValueError(
                f"targets: {clash[0]!r} is a column of the losses with evaluation.form_and_content; rename it"
            )
        twice = sorted(set(self.targets) & set(self.guards))
        if twice:
            raise ValueError(f"guards: {twice[0]!r} is also a target; a guard is never selected for")
        for method in self.selection.methods:
            method.check(self.targets, self.selection.attribution)
            method.quota_shares(self.selection.quotas, self.targets)
            self._check_reference(method)
            self._check_categories(method)
        return self

    @model_validator(mode="after")
    def _check_has_targets(self) -> "StudyConfig":
        if self.targets:
            return self
        needing = [method.name for method in self.selection.methods if method.needs_targets]
        parts = {
            "selection.include_validation": self.selection.include_validation,
            "selection.quotas": self.selection.quotas is not None,
            "evaluation.headroom": self.evaluation.headroom,
            "evaluation.form_and_content": self.evaluation.form_and_content,
            "search": self.search is not None,
            "mixture.importance": self.mixture is not None and self.mixture.importance == "targets",
        }
        what = needing[:1] + [key for key, is_asked in parts.items() if is_asked]
        if what:
            raise ValueError(f"targets: {what[0]!r} needs a target, and there is none; give one, or leave that out")
        return self

    def _check_reference(self, method: Method) -> None:
        name, where = method.refers_to, f"selection.methods: {method.name!r}"
        if name is None:
            return
        others = {each.name: each for each in self.selection.methods if each.refers_to is None}
        if name not in others:
            raise ValueError(f"{where} refers to {name!r}; it can refer to {', '.join(others) or 'no entry here'}")
        if others[name].picks != "budget":
            raise ValueError(f"{where} refers to {name!r}, which picks {others[name].picks} of the pool's rows")
        method.check_reference(others[name])

    def _check_categories(self, method: Method) -> None:
        what = method.needs_categories
        if what is None:
            return
        if self.mixture is None:
            raise ValueError(f"selection.methods: {method.name!r} has {what}, which needs the key `mixture`")
        if method.order == "shuffled":
            return
        if self.selection.include_validation:
            raise ValueError(
                f"selection.methods: {method.name!r} has order: {method.order}, which is by categories of the pool's "
                "rows; validation rows have none, set selection.include_validation to false"
            )
        if method.order == "three_pass" and self.finetune.epochs != PASSES:
            raise ValueError(
                f"selection.methods: {method.name!r} has order: three_pass, which takes {PASSES} epochs; "
                f"finetune.epochs is {self.finetune.epochs}"
            )
        measured = "interventions" in self.mixture.estimators and self.mixture.interventions.removals
        if self.curriculum.levels == "dependencies" and not measured:
            raise ValueError(
                f"selection.methods: {method.name!r} has order: {method.order}, and curriculum.levels are by "
                "dependencies, which interventions with removals tell; add `interventions` to mixture.compare, or "
                "give the levels"
            )
