"""Who is kept informed of a training run: Ray's metrics, and the study's trackers."""

from collections.abc import Sequence

from instsel.stages.metrics import Meter
from instsel.stages.training_worker import METRICS
from instsel.storage import Folder
from instsel.tracking import Tracked
from instsel.training.figures import Step


class TrainingLogger:
    """Logs steps in the order in which they were taken."""

    def __init__(self, meter: Meter, run: Tracked) -> None:
        self.meter, self.run = meter, run
        self.last: float | None = None

    def log_step(self, moment: float, step: Step) -> None:
        """Log a step that was taken at this time, seconds."""
        self.meter.show_step(step)
        values = {"loss": step.loss, "learning_rate": step.learning_rate}
        if self.last is not None and moment > self.last:
            values["tokens_per_second"] = step.tokens / (moment - self.last)
        self.run.log(values, step.number)
        self.last = moment

    def log_epochs(self, checkpoints: Folder, names: Sequence[str]) -> None:
        """Send the trackers the mean loss of each epoch, by what its checkpoint says."""
        for name in names:
            metrics = (checkpoints / name).read_json(METRICS)
            self.run.log({"epoch": metrics["epoch"], "epoch_loss": metrics["loss"]}, metrics["step"])
