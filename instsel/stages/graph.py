"""The stages of a study and what each depends on. Imports no Ray, so that a finished study is recognised at once."""

from dataclasses import asdict, dataclass
from typing import Any

from instsel.choice.ways import figures_influence, influences_of
from instsel.config import StudyConfig
from instsel.errors import InputError
from instsel.identity import encoder_identity, file_identity, model_identity
from instsel.inputs import files_identity, pool_files, target_files
from instsel.methods import AnyMethod, InfluenceMethod
from instsel.report.markdown import BASE
from instsel.storage import Folder
from instsel.study import Stage

ORDER = [
    "prepare", "embed", "represent", "likelihood", "warmup", "features", "attribution",
    "select", "finetune", "evaluate", "report",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training on a selection.

    Attributes:
        name: of the run.
        method: that selects.
        seed: added to that of training; a method that draws, draws by it.
        selection: name of the selection, which runs of a method that does not draw share.
    """

    name: str
    method: AnyMethod
    seed: int
    selection: str


@dataclass(frozen=True)
class Graph:
    """Every stage that a study can have, and which of them its methods need.

    `attribution` has one a way to take influence, `select` one a selection, `finetune` and `evaluate` one a run,
    `evaluate` one for the base model too.
    """

    folder: Folder
    runs: dict[str, Run]
    prepare: Stage
    embed: Stage
    represent: Stage
    likelihood: Stage
    warmup: Stage
    features: Stage
    attribution: dict[str, Stage]
    select: dict[str, Stage]
    finetune: dict[str, Stage]
    evaluate: dict[str, Stage]
    report: Stage

    def until(self, last: str) -> list[Stage]:
        """All stages through `last` that the methods need, in the order they run."""
        parts: list[Any] = [getattr(self, name) for name in ORDER[: ORDER.index(last) + 1]]
        stages = [stage for part in parts for stage in (part.values() if isinstance(part, dict) else [part])]
        return [stage for stage in stages if stage.name in self._needed]

    @property
    def _needed(self) -> set[str]:
        needed: set[str] = set()
        waiting = [self.report, *self.evaluate.values()]
        while waiting:
            stage = waiting.pop()
            needed.add(stage.name)
            waiting += stage.parents
        return needed


def runs_of(study: StudyConfig) -> dict[str, Run]:
    """Runs by name: one a method, or one a seed for a method with several."""
    runs: dict[str, Run] = {}
    owners: dict[str, AnyMethod] = {}
    for method in study.selection.methods:
        for seed in method.seeds:
            name = f"{method.name}-{seed}" if len(method.seeds) > 1 else method.name
            selection = name if method.draws else method.name
            if name in runs or name == BASE or owners.setdefault(selection, method) is not method:
                raise InputError(
                    f"selection.methods: two runs would be called {name!r}, or two selections {selection!r}; "
                    "rename a method or drop a seed"
                )
            runs[name] = Run(name, method, seed, selection)
    return runs


def build_graph(study: StudyConfig, folder: Folder) -> Graph:
    """The stages with their fingerprints.

    Raises:
        InputError: an input file is missing or is a folder; the message names its key.
    """
    runs = runs_of(study)
    model = _model(study)
    prepare = Stage(folder / "prepare", "prepare", {**_inputs(study), "model": model, "data": study.data.model_dump()})
    embed = Stage(folder / "embed", "embed", _embedding(study), [prepare])
    represent = Stage(folder / "represent", "represent", {"token_budget": study.features.token_budget}, [prepare])
    likelihood = Stage(folder / "likelihood", "likelihood", {"token_budget": study.evaluation.token_budget}, [prepare])
    trained = {"model": model, "lora": study.lora.model_dump(), "deepspeed": _deepspeed(study)}
    warmup = Stage(folder / "warmup", "warmup", {**trained, "warmup": study.warmup.model_dump()}, [prepare])
    features = Stage(folder / "features", "features", study.features.model_dump(), [warmup])
    attribution = {
        name: Stage(folder / "attribution" / name, f"attribution/{name}", asdict(influence), [features])
        for name, influence in influences_of(study).items()
    }
    read = {"prepare": prepare, "embed": embed, "represent": represent, "likelihood": likelihood, "features": features}
    select, finetune, evaluate = {}, {}, {}
    evaluation = {"token_budget": study.evaluation.token_budget}
    evaluate[BASE] = Stage(folder / "evaluate" / BASE, f"evaluate/{BASE}", {**evaluation, "model": model}, [prepare])
    for name, run in runs.items():
        config = _selection(study, run)
        source = attribution[config["influence"]] if run.method.reads == "attribution" else read[run.method.reads]
        chosen = run.selection
        select[chosen] = Stage(folder / "select" / chosen, f"select/{chosen}", config, [source])
        settings = {**study.finetune.model_dump(), "seed": study.finetune.seed + run.seed}
        config = {**trained, "finetune": settings}
        finetune[name] = Stage(folder / "finetune" / name, f"finetune/{name}", config, [select[chosen]])
        evaluate[name] = Stage(folder / "evaluate" / name, f"evaluate/{name}", evaluation, [finetune[name]])
    intervals = study.evaluation.model_dump(exclude={"token_budget"})
    names = {name: run.method.name for name, run in runs.items()}
    way = figures_influence(study)
    parents = [*evaluate.values(), *attribution.values(), *([features] if way else [])]
    config = {"intervals": intervals, "runs": names, "figures": way.name if way else None}
    report = Stage(folder / "report", "report", config, parents)
    return Graph(
        folder,
        runs,
        prepare,
        embed,
        represent,
        likelihood,
        warmup,
        features,
        attribution,
        select,
        finetune,
        evaluate,
        report,
    )


def _selection(study: StudyConfig, run: Run) -> dict[str, Any]:
    """What a selection depends on, beside the stage that it reads."""
    part, method = study.selection, run.method
    config = {
        "budget": part.budget,
        "unit": part.unit,
        "seed": run.seed if method.draws else 0,
        **method.model_dump(exclude={"name", "seeds", "attribution", "damping"}),
    }
    if isinstance(method, InfluenceMethod):
        config["influence"] = method.influence(part.attribution, part.damping).name
    return config


def _embedding(study: StudyConfig) -> dict[str, Any]:
    """What pins the embeddings: the encoder's files or revision, and how it is used."""
    part = study.embedding
    if not any(method.reads == "embed" for method in study.selection.methods):
        return {}
    return {
        "encoder": encoder_identity(part.encoder, part.revision),
        **part.model_dump(exclude={"encoder", "revision"}),
    }


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
