"""The stages of a study and what each depends on. Imports no Ray, so that a finished study is recognised at once."""

from dataclasses import dataclass
from typing import Any

from instsel.config import BidsMethod, LessMethod, RandomMethod, StudyConfig
from instsel.errors import InputError
from instsel.identity import file_identity, model_identity
from instsel.inputs import files_identity, pool_files, target_files
from instsel.report.markdown import BASE
from instsel.storage import Folder
from instsel.study import Stage

ORDER = ["prepare", "warmup", "features", "attribution", "select", "finetune", "evaluate", "report"]


@dataclass(frozen=True)
class Run:
    """One selection and the training on it: a method, and the seed where the method draws."""

    name: str
    method: RandomMethod | LessMethod | BidsMethod
    seed: int


@dataclass(frozen=True)
class Graph:
    """Every stage of a study: `select`, `finetune` and `evaluate` one a run, `evaluate` one for the base model too."""

    runs: dict[str, Run]
    prepare: Stage
    warmup: Stage
    features: Stage
    attribution: Stage
    select: dict[str, Stage]
    finetune: dict[str, Stage]
    evaluate: dict[str, Stage]
    report: Stage

    def until(self, last: str) -> list[Stage]:
        """All stages through `last`, in the order they run."""
        parts: list[Any] = [getattr(self, name) for name in ORDER[: ORDER.index(last) + 1]]
        return [stage for part in parts for stage in (part.values() if isinstance(part, dict) else [part])]


def runs_of(study: StudyConfig) -> dict[str, Run]:
    """Runs by name: one a method, or one a seed for a method with several."""
    runs = {}
    for method in study.selection.methods:
        seeds = method.seeds if isinstance(method, RandomMethod) else [0]
        for seed in seeds:
            name = f"{method.name}-{seed}" if len(seeds) > 1 else method.name
            if name in runs or name == BASE:
                raise InputError(
                    f"selection.methods: two runs would be called {name!r}; rename a method or drop a seed"
                )
            runs[name] = Run(name, method, seed)
    return runs


def build_graph(study: StudyConfig, folder: Folder) -> Graph:
    """The stages with their fingerprints.

    Raises:
        InputError: an input file is missing or is a folder; the message names its key.
    """
    runs = runs_of(study)
    model = _model(study)
    prepare = Stage(folder / "prepare", "prepare", {**_inputs(study), "model": model, "data": study.data.model_dump()})
    trained = {"model": model, "lora": study.lora.model_dump(), "deepspeed": _deepspeed(study)}
    warmup = Stage(folder / "warmup", "warmup", {**trained, "warmup": study.warmup.model_dump()}, [prepare])
    features = Stage(folder / "features", "features", study.features.model_dump(), [warmup])
    attribution = Stage(folder / "attribution", "attribution", {}, [features])
    select, finetune, evaluate = {}, {}, {}
    evaluation = {"token_budget": study.evaluation.token_budget}
    evaluate[BASE] = Stage(folder / "evaluate" / BASE, f"evaluate/{BASE}", {**evaluation, "model": model}, [prepare])
    for name, run in runs.items():
        chosen_by = run.method.model_dump(exclude={"name", "seeds"})
        config = {"budget": study.selection.budget, "seed": run.seed, **chosen_by}
        source = prepare if isinstance(run.method, RandomMethod) else attribution
        select[name] = Stage(folder / "select" / name, f"select/{name}", config, [source])
        config = {**trained, "finetune": study.finetune.model_dump()}
        finetune[name] = Stage(folder / "finetune" / name, f"finetune/{name}", config, [select[name]])
        evaluate[name] = Stage(folder / "evaluate" / name, f"evaluate/{name}", evaluation, [finetune[name]])
    intervals = study.evaluation.model_dump(exclude={"token_budget"})
    names = {name: run.method.name for name, run in runs.items()}
    report = Stage(folder / "report", "report", {"intervals": intervals, "runs": names}, list(evaluate.values()))
    return Graph(runs, prepare, warmup, features, attribution, select, finetune, evaluate, report)


def _inputs(study: StudyConfig) -> dict[str, Any]:
    targets = {}
    for name, target in study.targets.items():
        files = {split: files_identity(found) for split, found in target_files(study, name).items()}
        targets[name] = {"files": files, **target.model_dump(exclude={"validation", "heldout"})}
    return {"pool": files_identity(pool_files(study)), "targets": targets}


def _model(study: StudyConfig) -> dict[str, Any]:
    """What pins the model: its files or revision, its dtype, its attention, and the template's text."""
    template = study.model.chat_template
    return {
        "identity": model_identity(study.model.name, study.model.revision),
        "dtype": study.model.dtype,
        "attention": study.model.attention,
        "chat_template": None if template is None else _named("model.chat_template", template),
    }


def _deepspeed(study: StudyConfig) -> dict[str, Any]:
    config = study.deepspeed.config
    return {"stage": study.deepspeed.stage} if config is None else {"config": _named("deepspeed.config", config)}


def _named(key: str, path: str) -> str:
    try:
        return str(file_identity(path)["sha256"])
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
