"""The cluster that a study is planned for, which need not be there, and what measured rates become on it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import ray

from instsel.config.study import Resources, StudyConfig
from instsel.errors import InputError
from instsel.models.dtypes import with_dtype
from instsel.planner.rates import HOW, MeasuredRate, Probe, Rates, read_rates
from instsel.study.estimates import Throughput, TrainingProbe

CPU = "cpu"
WRITTEN = re.compile(r"(?:(?P<machines>[1-9]\d*)x)?(?P<count>[1-9]\d*)x(?P<device>(?!.*\dx)[a-z].*)", re.IGNORECASE)
ASSUMED = (
    "assumed, not measured: every process there is as fast as the measured one; nothing is counted for "
    "machines that start, for gradients that travel between workers, or for storage that is shared"
)


@dataclass(frozen=True)
class Cluster:
    """Machines of the same kind.

    Attributes:
        machines: how many.
        gpus: of each; 0 without GPUs.
        device: name of the GPU as a person writes it, or `cpu`.
    """

    machines: int
    gpus: int
    device: str

    @property
    def paid(self) -> int:
        """What has a price an hour: GPUs, or machines without GPUs."""
        return self.machines * (self.gpus or 1)

    def is_of(self, device: str) -> bool:
        """Whether a device, as its driver calls it, is of this kind: "NVIDIA H100 80GB HBM3" is an H100, no H10."""
        wanted, words = "".join(_words(self.device)), _words(device)
        starts = range(len(words))
        return any("".join(words[start : end + 1]) == wanted for start in starts for end in range(start, len(words)))


def parse_cluster(text: str) -> Cluster:
    """Read "8xH100" (GPUs of a machine), "2x8xH100" (machines, GPUs of each) or "4xcpu" (machines without GPUs).

    Raises:
        InputError: it is none of these.
    """
    match = WRITTEN.fullmatch(text.strip())
    if match is None or (match["device"].lower() == CPU and match["machines"]):
        raise InputError(f"--cluster {text}: write 8xH100, 2x8xH100 (machines x GPUs of each) or 4xcpu (machines)")
    count = int(match["count"])
    if match["device"].lower() == CPU:
        return Cluster(count, 0, CPU)
    return Cluster(int(match["machines"] or 1), count, match["device"])


def workers_on(cluster: Cluster, together: int, asked: int | None) -> int:
    """Return the training workers: one a GPU, or on every machine as many as on the measured one; or as asked for."""
    return asked or cluster.machines * (cluster.gpus or together)


def on_cluster(rate: Throughput, cluster: Cluster, asked: int | None = None) -> Throughput:
    """Return the rate of a stage of model processes there, each of which is taken to be as fast as the measured one.

    Args:
        rate: measured on such a device.
        cluster: where the stage is to run.
        asked: processes that the study file asks for; by default as many as the GPUs hold, and without GPUs as many a
            machine as were on the measured one.

    Raises:
        InputError: the cluster has fewer GPUs than they hold.
    """
    if not cluster.gpus:
        processes = asked or cluster.machines * rate.together
    else:
        processes = asked or math.floor(cluster.machines * cluster.gpus / rate.gpu_share)
        if not processes or processes * rate.gpu_share > cluster.machines * cluster.gpus:
            raise InputError(
                f"--cluster: {max(1, processes)} processes of {rate.gpu_share:g} GPU do not fit on "
                f"{cluster.machines * cluster.gpus} GPUs; change resources or the cluster"
            )
    return replace(rate, processes=processes, together=math.ceil(processes / cluster.machines))


def cost_a_second(cluster: Cluster, price: float) -> float:
    """Return the cost of a second of the cluster, at a price for an hour of a GPU, or of a machine without GPUs."""
    return cluster.paid * price / 3600


@dataclass(frozen=True)
class TargetCluster:
    """Where a study is planned to run, by default here.

    Attributes:
        cluster: that it is to run on; by default the cluster that is here.
        rates: measured before; by default they are measured here.
        price: of an hour of a GPU, or of a machine without GPUs.
        save: file to keep the measured rates in.
    """

    cluster: Cluster | None = None
    rates: Rates | None = None
    price: float | None = None
    save: str | None = None

    @classmethod
    def from_options(
        cls, cluster: str | None, rates: str | None, price: float | None, save: str | None
    ) -> "TargetCluster":
        """Make it from the options of the command line.

        Raises:
            InputError: an option is wrong, or does nothing without another.
        """
        if cluster is None and (rates is not None or price is not None):
            raise InputError(f"{'--rates' if rates else '--price'} needs --cluster: for which cluster is the plan?")
        if rates is not None and save is not None:
            raise InputError("--save-rates: with --rates nothing is measured; leave one of them out")
        if price is not None and not price > 0:
            raise InputError(f"--price {price:g}: give a number above 0")
        parsed = parse_cluster(cluster) if cluster is not None else None
        return cls(parsed, None if rates is None else read_rates(rates), price, save)

    @property
    def cost_a_second(self) -> float | None:
        """Cost of a second of the cluster; None without a price."""
        return None if self.price is None or self.cluster is None else cost_a_second(self.cluster, self.price)

    def with_dtype(self, config: StudyConfig) -> StudyConfig:
        """Return the study in the type that its rates were measured in, where it leaves that open."""
        dtype = None if self.rates is None else self.rates.dtype
        return config if dtype is None or config.model.dtype != "auto" else with_dtype(config, dtype)

    def workers(self, config: StudyConfig, together: int) -> int | None:
        """Return the training workers of the cluster, whose part of a step a timed worker is to have."""
        if self.cluster is None:
            return None
        return workers_on(self.cluster, together, config.resources.training_workers)

    def check_session(self) -> None:
        """Raise InputError if rates have to be measured here, and there is no such device."""
        if self.cluster is None or self.rates is not None:
            return
        has_gpus = bool(ray.cluster_resources().get("GPU"))
        if has_gpus != bool(self.cluster.gpus):
            raise self._other_device("GPUs" if has_gpus else "no GPU")

    def known_rate(self, probe: Probe) -> Throughput | None:
        """Return the rate that was measured before; None where rates are measured here.

        Raises:
            InputError: it was measured for something else.
        """
        return None if self.rates is None else self.rates.throughput(probe.name, probe.dependencies())

    def convert(self, probe: Probe, measured: Throughput, resources: Resources) -> Throughput:
        """Return what becomes of a rate on the cluster.

        Raises:
            InputError: it was measured on another device, or does not fit on the cluster.
        """
        if self.cluster is None:
            return measured
        if not self.cluster.is_of(measured.device):
            raise self._other_device(measured.device)
        if isinstance(probe, TrainingProbe):
            expected = on_cluster(measured, self.cluster, resources.training_workers)
            return _with_idle_workers(expected, probe.training.batch_size)
        return on_cluster(measured, self.cluster, resources.actors)

    def describe(self, names: Sequence[str], rates: Mapping[str, MeasuredRate], mean_tokens: float) -> list[str]:
        """Say what the plan for a cluster rests on.

        Args:
            names: of the stages that are not done.
            rates: by stage.
            mean_tokens: of a row of the pool.
        """
        if self.cluster is None:
            return []
        measured = [name for name in names if name in rates]
        local = [name for name in names if name not in rates]
        lines = []
        if measured:
            devices = ", ".join(sorted({rate.measured.device for rate in rates.values()}))
            lines.append(
                f"{', '.join(measured)}: rates measured on {devices}, {'before' if self.rates else 'just now'}"
            )
            lines.append(ASSUMED)
        if local:
            lines.append(f"{', '.join(local)}: as the CPUs of this machine do them")
        if measured and self.rates is not None:
            lines.append(
                f"rows have {mean_tokens:,.0f} tokens on average; "
                f"where the rates were measured, {self.rates.mean_tokens:,.0f}"
            )
        return [*lines, *(line for name in measured for line in _other_steps(rates[name]))]

    def _other_device(self, here: str) -> InputError:
        source = "the rates are of" if self.rates else "here there is"
        wanted = self.cluster.device if self.cluster else ""
        return InputError(
            f"--cluster: rates of {wanted} are needed, {source} {here}; {HOW}, then give --rates rates.json"
        )


def _with_idle_workers(rate: Throughput, batch_size: int) -> Throughput:
    """Return the rate where a step ends with the worker that has most of its rows.

    4 rows on 3 workers take as long as 6 would.
    """
    if rate.speed is None:
        return rate
    slots = math.ceil(batch_size / rate.processes) * rate.processes
    return replace(rate, speed=rate.speed * batch_size / slots)


def _other_steps(rate: MeasuredRate) -> list[str]:
    if not isinstance(rate.probe, TrainingProbe):
        return []
    rows = max(1.0, rate.probe.training.batch_size / rate.expected.processes)
    if abs(rows - rate.measured.step_rows) < 1:
        return []
    return [
        f"{rate.probe.name}: a worker there has {rows:.3g} rows of a step, the measured one had "
        f"{rate.measured.step_rows:.3g}: fewer rows are slower a token; measure with the same --cluster"
    ]


def _words(device: str) -> Sequence[str]:
    return re.findall(r"[a-z0-9]+", device.lower())
