"""Whom a training run is told to: Ray's metrics, and the study's trackers."""

from collections.abc import Sequence

from instsel.stages.metrics import Meter
from instsel.stages.training_worker import METRICS
from instsel.storage import Folder
from instsel.tracking import Tracked
from instsel.training.figures import Step


class Told:
    """Tells steps in the order in which they were taken."""

    def __init__(self, meter: Meter, run: Tracked) -> None:
        self.meter, self.run = meter, run
        self.last: float | None = None

    def steps(self, news: Sequence[tuple[float, Step]]) -> None:
        """Tell steps, each with its time in seconds."""
        for moment, step in news:
            self.meter.show_step(step)
            values = {"loss": step.loss, "learning_rate": step.learning_rate}
            if self.last is not None and moment > self.last:
                values["tokens_per_second"] = step.tokens / (moment - self.last)
            self.run.log(values, step.number)
            self.last = moment


def tell_epochs(run: Tracked, checkpoints: Folder, names: Sequence[str]) -> None:
    """Tell the trackers the mean loss of each epoch, by what its checkpoint says."""
    for name in names:
        metrics = (checkpoints / name).read_json(METRICS)
        run.log({"epoch": metrics["epoch"], "epoch_loss": metrics["loss"]}, metrics["step"])
