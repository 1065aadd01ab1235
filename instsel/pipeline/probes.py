"""What the rates of stages depend on, beside the device and the rows, and the probes that stages share."""

from functools import partial

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.study import dependencies
from instsel.study.estimates import TrainingProbe
from instsel.study.stage import Settings


def actor_dependencies(config: StudyConfig, budget: int) -> Settings:
    """Return what the rate of a model's actors depends on."""
    return {**_model(config), "token_budget": budget, "gpus_per_actor": config.resources.gpus_per_actor}


def training_probe(name: str, config: StudyConfig, training: Training) -> TrainingProbe:
    """Return the probe of a stage that trains."""
    return TrainingProbe(name, partial(_training_dependencies, config, training), training)


def _training_dependencies(config: StudyConfig, training: Training) -> Settings:
    sizes = training.model_dump(include={"batch_size", "micro_batch_size"})
    return {
        **_model(config),
        **dependencies.adapter_settings(config),
        **sizes,
        "deepspeed": dependencies.deepspeed(config),
    }


def _model(config: StudyConfig) -> Settings:
    return {"model": dependencies.trained_model(config), "max_length": config.data.max_length}
