"""A cluster that need not be there: how a person writes it, and what measured paces become on it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from instsel.errors import InputError
from instsel.planner.facts import Throughput

CPU = "cpu"
WRITTEN = re.compile(r"(?:(?P<machines>[1-9]\d*)x)?(?P<count>[1-9]\d*)x(?P<device>(?!.*\dx)[a-z].*)", re.IGNORECASE)


@dataclass(frozen=True)
class Cluster:
    """Machines of one kind.

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
    """Read "8xH100" (GPUs of one machine), "2x8xH100" (machines, GPUs of each) or "4xcpu" (machines without GPUs).

    Raises:
        InputError: it is none of these.
    """
    found = WRITTEN.fullmatch(text.strip())
    if found is None or (found["device"].lower() == CPU and found["machines"]):
        raise InputError(f"--cluster {text}: write 8xH100, 2x8xH100 (machines x GPUs of each) or 4xcpu (machines)")
    count = int(found["count"])
    if found["device"].lower() == CPU:
        return Cluster(count, 0, CPU)
    return Cluster(int(found["machines"] or 1), count, found["device"])


def workers_on(cluster: Cluster, together: int, asked: int | None) -> int:
    """Training workers: one a GPU, or on every machine as many as shared the measured one; `asked` overrides that."""
    return asked or cluster.machines * (cluster.gpus or together)


def on_cluster(pace: Throughput, cluster: Cluster, asked: int | None = None) -> Throughput:
    """The pace of a stage of model processes there. A process is taken to be as fast as the one that was measured.

    Args:
        pace: measured on such a device.
        cluster: where the stage is to run.
        asked: processes that the study file asks for; by default as many as the GPUs hold, and without GPUs as many a
            machine as shared the measured one.

    Raises:
        InputError: the cluster has fewer GPUs than they hold.
    """
    if not cluster.gpus:
        processes = asked or cluster.machines * pace.together
    else:
        processes = asked or math.floor(cluster.machines * cluster.gpus / pace.gpu_share)
        if not processes or processes * pace.gpu_share > cluster.machines * cluster.gpus:
            raise InputError(
                f"--cluster: {max(1, processes)} processes of {pace.gpu_share:g} GPU do not fit on "
                f"{cluster.machines * cluster.gpus} GPUs; change resources or the cluster"
            )
    return replace(pace, processes=processes, together=math.ceil(processes / cluster.machines))


def cost_a_second(cluster: Cluster, price: float) -> float:
    """Cost of a second of the whole cluster, at a price for an hour of one GPU, or of one machine without GPUs."""
    return cluster.paid * price / 3600


def _words(device: str) -> Sequence[str]:
    return re.findall(r"[a-z0-9]+", device.lower())
