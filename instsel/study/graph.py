"""The stages of a study and what each depends on. Imports no Ray, so that a finished study is recognised at once."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from instsel.config.mixture import Estimator
from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.markdown import BASE
from instsel.selection.base import Method
from instsel.study import dependencies as dependencies
from instsel.study.attribution_specs import attribution_specs, metrics_spec
from instsel.study.folder import StageFolder

ORDER = [
    "prepare", "embed", "hidden_states", "likelihood", "categorize", "warmup", "features", "attribution", "interaction",
    "select", "finetune", "evaluate", "report",
]  # fmt: skip

# What a trial of a search does not share with the others.
OWN = {"select", "finetune", "evaluate", "report"}


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
    method: Method
    seed: int
    selection: str


@dataclass(frozen=True)
class Graph:
    """Every stage that a study can have, and which of them its methods need.

    `attribution` has one a way to take influence, `interaction` one an estimator, `select` one a selection, `finetune`
    and `evaluate` one a run, `evaluate` one for the base model too.
    """

    folder: Folder
    runs: dict[str, Run]
    prepare: StageFolder
    embed: StageFolder
    hidden_states: StageFolder
    likelihood: StageFolder
    categorize: StageFolder
    warmup: StageFolder
    features: StageFolder
    attribution: dict[str, StageFolder]
    interaction: dict[Estimator, StageFolder]
    select: dict[str, StageFolder]
    finetune: dict[str, StageFolder]
    evaluate: dict[str, StageFolder]
    report: StageFolder

    def until(self, last: str) -> list[StageFolder]:
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
    owners: dict[str, Method] = {}
    for method in study.selection.methods:
        for seed in method.seeds:
            name = f"{method.name}-{seed}" if len(method.seeds) > 1 else method.name
            selection = name if method.is_stochastic else method.name
            if name in runs or name == BASE or owners.setdefault(selection, method) is not method:
                raise InputError(
                    f"selection.methods: two runs would be called {name!r}, or two selections {selection!r}; "
                    "rename a method or drop a seed"
                )
            runs[name] = Run(name, method, seed, selection)
    return runs


def settings_of(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """Stage -> its configuration as far as the study file says it, without a look at the user's own files."""
    lora, batches = {"lora": study.lora.model_dump()}, {"token_budget": study.evaluation.token_budget}
    found: dict[str, dict[str, Any]] = {
        "prepare": {"data": study.data.model_dump()},
        "hidden_states": {"token_budget": study.features.token_budget},
        "likelihood": batches,
        "warmup": {**lora, "warmup": dependencies.on_training(study.warmup)},
        "features": study.features.model_dump(),
        f"evaluate/{BASE}": batches,
    }
    found |= {f"attribution/{name}": asdict(influence) for name, influence in attribution_specs(study).items()}
    for name, run in runs_of(study).items():
        found[f"select/{run.selection}"] = dependencies.on_method(study, run.method, run.seed)
        training = {**dependencies.on_training(study.finetune), "seed": study.finetune.seed + run.seed}
        found[f"finetune/{name}"] = {**lora, "finetune": training, **dependencies.on_order(study, run.method)}
        found[f"evaluate/{name}"] = batches
    return found


def build_graph(study: StudyConfig, folder: Folder, own: Folder | None = None) -> Graph:
    """The stages with their fingerprints.

    Args:
        study: the checked study file.
        folder: of the study.
        own: folder of the selections and what follows; by default that of the study. What is above does not change
            with it, nor does any fingerprint.

    Raises:
        InputError: an input file is missing or is a folder; the message names its key.
    """
    runs, settings = runs_of(study), settings_of(study)
    model = dependencies.on_model(study)
    trained = {"model": model, "lora": study.lora.model_dump(), "deepspeed": dependencies.on_deepspeed(study)}

    def stage(name: str, config: dict[str, Any], *parents: StageFolder) -> StageFolder:
        place = own if own is not None and name.partition("/")[0] in OWN else folder
        return StageFolder(place / name, name, config, parents)

    prepare = stage("prepare", {**dependencies.on_inputs(study), "model": model, **settings["prepare"]})
    embed = stage("embed", dependencies.on_encoder(study) if dependencies.reads_embeddings(study) else {}, prepare)
    hidden_states = stage("hidden_states", settings["hidden_states"], prepare)
    likelihood = stage("likelihood", settings["likelihood"], prepare)
    warmup = stage("warmup", {**trained, **settings["warmup"]}, prepare)
    features = stage("features", settings["features"], warmup)
    attribution = {
        name: stage(f"attribution/{name}", settings[f"attribution/{name}"], features)
        for name in attribution_specs(study)
    }
    categorize, interaction = _mixture(study, stage, trained, prepare, embed, features)
    read = {
        "index": prepare,
        "embeddings": embed,
        "hidden_states": hidden_states,
        "likelihood": likelihood,
        "gradients": features,
    }
    select, finetune = {}, {}
    base = f"evaluate/{BASE}"
    evaluate = {BASE: stage(base, {**settings[base], "model": model}, prepare)}
    for name, run in runs.items():
        method, chosen = run.method, run.selection
        config = settings[f"select/{chosen}"]
        source = attribution[config["influence"]] if method.requires == "influence" else read[method.requires]
        by = [source, *_shares(study, method, categorize, interaction)]
        select[chosen] = stage(f"select/{chosen}", config, *by)
        levels = _levels(study, method, categorize, interaction)
        training = f"finetune/{name}"
        finetune[name] = stage(training, {**trained, **settings[training]}, select[chosen], *levels)
        evaluate[name] = stage(f"evaluate/{name}", settings[f"evaluate/{name}"], finetune[name])
    way = metrics_spec(study)
    names = {name: run.method.name for name, run in runs.items()}
    report = stage(
        "report",
        {
            "intervals": study.evaluation.model_dump(exclude={"token_budget"}),
            "runs": names,
            "figures": way.name if way else None,
        },
        *evaluate.values(),
        *attribution.values(),
        *(interaction.values() if _wants_gamma(study) else []),
        *([features] if way else []),
    )
    return Graph(
        folder,
        runs,
        prepare,
        embed,
        hidden_states,
        likelihood,
        categorize,
        warmup,
        features,
        attribution,
        interaction,
        select,
        finetune,
        evaluate,
        report,
    )


def _mixture(
    study: StudyConfig,
    stage: Callable[..., StageFolder],
    trained: dict[str, Any],
    prepare: StageFolder,
    embed: StageFolder,
    features: StageFolder,
) -> tuple[StageFolder, dict[Estimator, StageFolder]]:
    """Stages *categorize* and *interaction*, the latter by estimator; without the key `mixture` nothing needs them."""
    mixture = study.mixture
    if mixture is None:
        return stage("categorize", {}, prepare), {}
    categorize = stage(
        "categorize",
        dependencies.on_categories(study, mixture),
        prepare,
        *([embed] if dependencies.categories_by_embeddings(mixture) else []),
    )
    interaction: dict[Estimator, StageFolder] = {}
    for estimator in mixture.estimators:
        config = dependencies.on_estimator(study, mixture, estimator, trained)
        parents = [categorize, features] if estimator == "gradients" else [categorize]
        interaction[estimator] = stage(f"interaction/{estimator}", config, *parents)
    return categorize, interaction


def _wants_gamma(study: StudyConfig) -> bool:
    """Whether the report has all estimators: not where categories are there to stratify or to order by alone."""
    methods = study.selection.methods
    reads = any(method.mixture is not None for method in methods)
    others = any(method.needs_categories is not None and method.mixture is None for method in methods)
    return study.mixture is not None and (reads or not others or bool(study.mixture.compare))


def _shares(
    study: StudyConfig, method: Method, categorize: StageFolder, interaction: Mapping[Estimator, StageFolder]
) -> list[StageFolder]:
    """What a selection reads of categories."""
    if method.mixture is not None and study.mixture is not None:
        return [categorize, interaction[study.mixture.estimator]]
    return [categorize] if method.grouping == "category" else []


def _levels(
    study: StudyConfig, method: Method, categorize: StageFolder, interaction: Mapping[Estimator, StageFolder]
) -> list[StageFolder]:
    """What the order of training reads of categories."""
    if method.order == "shuffled":
        return []
    return [categorize, interaction["interventions"]] if study.curriculum.levels == "dependencies" else [categorize]
