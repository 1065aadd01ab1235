"""What each stage's result depends on, beside the stages before it: the content of its fingerprint."""

from typing import Any

from instsel.config.mixture import ClusterCategories, EndpointCategories, Estimator, Mixture
from instsel.config.study import StudyConfig, Training
from instsel.data.sources import files_identity, pool_files, target_files
from instsel.errors import InputError
from instsel.io.fingerprint import encoder_identity, file_identity, model_identity
from instsel.models.dtypes import dtype_of
from instsel.selection.base import Method

PROGRAMME = {"estimator", "importance", "effects_in", "max_shift", "floors", "caution", "unknown"}


def on_inputs(study: StudyConfig) -> dict[str, Any]:
    """Of *prepare*: the files of pool and targets, and how they are read."""
    targets = {}
    for name, target in study.targets.items():
        files = {split: files_identity(found) for split, found in target_files(study, name).items()}
        targets[name] = {"files": files, **target.model_dump(exclude={"validation", "heldout"})}
    return {"pool": files_identity(pool_files(study)), "targets": targets}


def on_model(study: StudyConfig) -> dict[str, Any]:
    """What pins the model: its files or revision, its dtype, its attention, and the template's text."""
    template = study.model.chat_template
    return {
        "identity": model_identity(study.model.name, study.model.revision),
        "dtype": dtype_of(study.model),
        "attention": study.model.attention,
        "chat_template": None if template is None else _named("model.chat_template", template),
    }


def on_training(training: Training) -> dict[str, Any]:
    """Of a training: its keys but `micro_batch_size`, which changes results as the number of workers does, by rounding.

    So a training that ran out of memory goes on with smaller micro batches at its last checkpoint.
    """
    return training.model_dump(exclude={"micro_batch_size"})


def on_deepspeed(study: StudyConfig) -> dict[str, Any]:
    """Of every training: the ZeRO stage, or the content of the user's configuration."""
    config = study.deepspeed.config
    return {"stage": study.deepspeed.stage} if config is None else {"config": _named("deepspeed.config", config)}


def reads_embeddings(study: StudyConfig) -> bool:
    """Whether a method or the categories go by prompt embeddings."""
    if any(method.requires == "embeddings" for method in study.selection.methods):
        return True
    return study.mixture is not None and categories_by_embeddings(study.mixture)


def categories_by_embeddings(mixture: Mixture) -> bool:
    """Whether the pool is divided, or its categories are weighed, by prompt embeddings."""
    return isinstance(mixture.categories, ClusterCategories) or mixture.importance == "targets"


def on_encoder(study: StudyConfig) -> dict[str, Any]:
    """What pins embeddings: the encoder's files or revision, and how it is used."""
    part = study.embedding
    settings = part.model_dump(exclude={"encoder", "revision"})
    return {"encoder": encoder_identity(part.encoder, part.revision), **settings}


def on_categories(study: StudyConfig, mixture: Mixture) -> dict[str, Any]:
    """Of *tag*: how rows get a category; how fast an endpoint is asked changes nothing."""
    how = mixture.categories
    asking = {"key_variable", "requests_at_once", "timeout", "attempts"}
    free_tags = isinstance(how, EndpointCategories) and how.labels is None
    return {
        "categories": how.model_dump(exclude=asking),
        "evaluation_rows": mixture.evaluation_rows,
        "least_rows": mixture.least_rows,
        "targets": mixture.importance == "targets",
        "encoder": on_encoder(study) if free_tags else None,
    }


def on_estimator(study: StudyConfig, mixture: Mixture, estimator: Estimator, trained: dict[str, Any]) -> dict[str, Any]:
    """Of *interaction*: the estimator's settings, and for those that train, those of training and evaluation."""
    config: dict[str, Any] = {"estimator": estimator, "threshold": mixture.threshold}
    if estimator == "gradients":
        return {**config, "token_budget": study.features.token_budget}
    plan = mixture.interventions if estimator == "interventions" else mixture.regression
    training = {
        **trained,
        "finetune": on_training(training_of_runs(study, mixture)),
        "evaluation": study.evaluation.token_budget,
    }
    return {**config, "plan": plan.model_dump(), **training}


def training_of_runs(study: StudyConfig, mixture: Mixture) -> Training:
    """How the runs are trained that tell how categories help each other."""
    return mixture.training or study.finetune


def on_method(study: StudyConfig, method: Method, seed: int) -> dict[str, Any]:
    """Of *select*: method, budget and mixture; not how the rows are trained on."""
    part = study.selection
    config = {
        "budget": part.budget,
        "unit": part.unit,
        "seed": seed if method.is_stochastic else 0,
        **method.settings(),
    }
    spec = method.attribution_spec(part.attribution, part.damping)
    if spec is not None:
        config["influence"] = spec.name
    if method.mixture is not None and study.mixture is not None:
        config["mixture"] = {"start": method.mixture, **study.mixture.model_dump(include=PROGRAMME)}
    return config


def on_order(study: StudyConfig, method: Method) -> dict[str, Any]:
    """Of *finetune*: the order of the rows, where it is not the usual one."""
    return {} if method.order == "shuffled" else {"order": method.order, "curriculum": study.curriculum.model_dump()}


def _named(key: str, path: str) -> str:
    try:
        return str(file_identity(path)["sha256"])
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
