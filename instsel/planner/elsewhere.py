"""A plan for a cluster that is not there: where its paces come from, and what is assumed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.errors import InputError
from instsel.models.dtypes import with_dtype
from instsel.planner.cluster import Cluster, cost_a_second, on_cluster, parse_cluster, workers_on
from instsel.planner.facts import Facts, StagePlan, Throughput
from instsel.planner.rates import HOW, MODEL_STAGES, Rate, Rates, read_rates, write_rates
from instsel.study import dependencies as dependencies

NOTHING = "--save-rates: nothing to measure, every stage with a model is done; plan with --set out=NEW_FOLDER"


@dataclass(frozen=True)
class TargetCluster:
    """What is asked for beside a plan for this machine.

    Attributes:
        cluster: that the study is to run on; by default the one that is here.
        rates: measured before; by default they are measured here.
        price: of an hour of one GPU, or of one machine without GPUs.
        save: file to keep the measured rates in.
    """

    cluster: Cluster | None = None
    rates: Rates | None = None
    price: float | None = None
    save: str | None = None

    @classmethod
    def of(cls, cluster: str | None, rates: str | None, price: float | None, save: str | None) -> "TargetCluster":
        """As the command line has it.

        Raises:
            InputError: an option is wrong, or does nothing without another.
        """
        if cluster is None and (rates is not None or price is not None):
            raise InputError(f"{'--rates' if rates else '--price'} needs --cluster: for which cluster is the plan?")
        if rates is not None and save is not None:
            raise InputError("--save-rates: with --rates nothing is measured; leave one of them out")
        if price is not None and not price > 0:
            raise InputError(f"--price {price:g}: give a number above 0")
        place = parse_cluster(cluster) if cluster is not None else None
        return cls(place, None if rates is None else read_rates(rates), price, save)

    @property
    def checkpoint_bytes(self) -> int:
        """Of rates that were measured before."""
        return self.rates.checkpoint_bytes if self.rates else 0

    @property
    def cost_a_second(self) -> float | None:
        """Cost of a second of the cluster; None without a price."""
        return None if self.price is None or self.cluster is None else cost_a_second(self.cluster, self.price)

    def pace(self, study: StudyConfig, stage: str) -> Throughput | None:
        """The pace of a stage where it was measured before.

        Raises:
            InputError: it was measured for something else.
        """
        return None if self.rates is None else self.rates.pace(stage, _depends(study, stage))

    def with_dtype(self, study: StudyConfig) -> StudyConfig:
        """The study in the type that its rates were measured in, where it leaves that open."""
        rates = () if self.rates is None else self.rates.stages.values()
        dtype = next((rate.dependencies["model"]["dtype"] for rate in rates if "model" in rate.dependencies), None)
        return study if dtype is None or study.model.dtype != "auto" else with_dtype(study, dtype)

    def workers(self, study: StudyConfig, together: int) -> int | None:
        """Training workers of the cluster that is asked for, whose share of a step one that is timed is to have."""
        if self.cluster is None:
            return None
        return workers_on(self.cluster, together, study.resources.training_workers)

    def check_session(self) -> None:
        """Raise InputError if rates have to be measured here, and there is no such device."""
        if self.cluster is None or self.rates is not None:
            return
        has_gpus = bool(ray.cluster_resources().get("GPU"))
        if has_gpus != bool(self.cluster.gpus):
            self._refuse("GPUs" if has_gpus else "no GPU")

    def keep(self, study: StudyConfig, facts: Facts) -> None:
        """Write what was measured, if that is asked for."""
        if self.save is None:
            return
        stages = {name: Rate(_depends(study, name), facts.paces[name]) for name in MODEL_STAGES if name in facts.paces}
        if not stages:
            raise InputError(NOTHING)
        write_rates(self.save, Rates(stages, facts.checkpoint_bytes, facts.mean_tokens))

    def moved(self, study: StudyConfig, facts: Facts) -> Facts:
        """The facts with the paces of the cluster that is asked for.

        Raises:
            InputError: they were measured on another device, or do not fit on it.
        """
        if self.cluster is None:
            return facts
        asked, trained = study.resources, _trainings(study)
        paces = dict(facts.paces)
        for stage in set(MODEL_STAGES) & set(paces):
            if not self.cluster.is_of(paces[stage].device):
                self._refuse(paces[stage].device)
            if stage in trained:
                pace = on_cluster(paces[stage], self.cluster, asked.training_workers)
                paces[stage] = _with_shares(pace, trained[stage].batch_size)
            else:
                paces[stage] = on_cluster(paces[stage], self.cluster, asked.actors)
        return replace(facts, paces=paces)

    def told(self, study: StudyConfig, facts: Facts, stages: Sequence[StagePlan]) -> list[str]:
        """What the plan for the cluster rests on; `facts` are those of that cluster."""
        if self.cluster is None:
            return []
        known = {name: pace for name, pace in facts.paces.items() if name in MODEL_STAGES}
        names = [stage.name for stage in stages if not stage.done]
        measured = [name for name in names if name in known]
        devices = ", ".join(sorted({pace.device for pace in known.values()}))
        own = [name for name in names if name not in known]
        lines = []
        if measured:
            lines.append(
                f"{', '.join(measured)}: rates measured on {devices}, {'before' if self.rates else 'just now'}"
            )
            lines.append(
                "assumed, not measured: every process there is as fast as the measured one; nothing is counted for "
                "machines that start, for gradients that travel between workers, or for storage that is shared"
            )
        if own:
            lines.append(f"{', '.join(own)}: as the CPUs of this machine do them")
        if measured and self.rates is not None:
            lines.append(
                f"rows have {facts.mean_tokens:,.0f} tokens on average; "
                f"where the rates were measured, {self.rates.mean_tokens:,.0f}"
            )
        for name, training in _trainings(study).items():
            if name in measured:
                lines += _other_steps(name, known[name], training.batch_size)
        return lines

    def _refuse(self, here: str) -> None:
        source = "the rates are of" if self.rates else "here there is"
        wanted = self.cluster.device if self.cluster else ""
        raise InputError(
            f"--cluster: rates of {wanted} are needed, {source} {here}; {HOW}, then give --rates rates.json"
        )


def _with_shares(pace: Throughput, batch_size: int) -> Throughput:
    """A step ends with the worker that has most of its rows: 4 rows on 3 workers take as long as 6 would."""
    if pace.speed is None:
        return pace
    slots = math.ceil(batch_size / pace.processes) * pace.processes
    return replace(pace, speed=pace.speed * batch_size / slots)


def _other_steps(name: str, pace: Throughput, batch_size: int) -> list[str]:
    rows = max(1.0, batch_size / pace.processes)
    if abs(rows - pace.step_rows) < 1:
        return []
    return [
        f"{name}: a worker there has {rows:.3g} rows of a step, the measured one had {pace.step_rows:.3g}: "
        "fewer rows are slower a token; measure with the same --cluster"
    ]


def _trainings(study: StudyConfig) -> dict[str, Training]:
    found: dict[str, Training] = {"warmup": study.warmup, "finetune": study.finetune}
    if study.mixture is not None:
        found["interaction"] = dependencies.training_of_runs(study, study.mixture)
    return found


def _depends(study: StudyConfig, stage: str) -> dict[str, Any]:
    """What the pace of a stage depends on, beside the device and the rows."""
    if stage == "embed":
        return {
            "encoder": {**dependencies.encoder(study), **dependencies.encoder_settings(study)},
            "gpus_per_actor": study.resources.gpus_per_actor,
        }
    model = {"model": dependencies.trained_model(study), "max_length": study.data.max_length}
    lora = {"lora": study.lora.model_dump(mode="json")}
    training = _trainings(study).get(stage)
    if training is not None:
        sizes = training.model_dump(include={"batch_size", "micro_batch_size"})
        return {**model, **lora, **sizes, "deepspeed": dependencies.deepspeed(study)}
    part = study.features if stage in ("features", "hidden_states") else study.evaluation
    actor = {**model, "token_budget": part.token_budget, "gpus_per_actor": study.resources.gpus_per_actor}
    if stage in ("hidden_states", "likelihood"):
        return actor
    return {**actor, **lora, **({"dim": study.features.dim} if stage == "features" else {})}
