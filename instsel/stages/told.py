"""Whom each step of a training run is told to: Ray's metrics, and the study's trackers."""

from collections.abc import Mapping, Sequence
from typing import Any

from instsel.stages.metrics import Meter
from instsel.storage import Folder
from instsel.tracking import Tracked

METRICS = "metrics.json"


def tell_epochs(run: Tracked, checkpoints: Folder, names: Sequence[str]) -> None:
    """Tell the trackers the mean loss of each epoch, by what its checkpoint says."""
    for name in names:
        metrics = (checkpoints / name).read_json(METRICS)
        run.log({"epoch": metrics["epoch"], "epoch_loss": metrics["loss"]}, metrics["step"])


class Told:
    """Tells steps in their order; a run that goes on begins with its tokens at 0."""

    def __init__(self, meter: Meter, run: Tracked) -> None:
        self.meter, self.run = meter, run
        self.last: Mapping[str, Any] = {"tokens": 0}

    def steps(self, news: Sequence[Mapping[str, Any]]) -> None:
        """Tell steps.

        Args:
            news: of each its `step`, `steps` of the run, `tokens` since the start of the workers, `loss`,
                `learning_rate`, and `time` in seconds.
        """
        for one in news:
            # Workers that were started anew count from 0 again.
            tokens = one["tokens"] - self.last["tokens"] if one["tokens"] > self.last["tokens"] else one["tokens"]
            self.meter.show_step(one["step"], one["steps"], tokens, one["loss"])
            values = {"loss": one["loss"], "learning_rate": one["learning_rate"]}
            if "time" in self.last and one["time"] > self.last["time"]:
                values["tokens_per_second"] = tokens / (one["time"] - self.last["time"])
            self.run.log(values, one["step"])
            self.last = one
