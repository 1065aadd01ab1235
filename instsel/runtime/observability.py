"""Metrics of a running study, which Ray exports at the Prometheus endpoint of every node.

Ray adds the node and the worker process to each, so that an actor's values are those with its `WorkerId`. The study and
the stage are the only other tags: a run, shard or row would be a time series each.
"""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from instsel.training.schedule import Step

COUNTERS = {
    "instsel_rows": "rows that actors and training runs have finished",
    "instsel_tokens": "tokens that actors and training runs have finished",
    "instsel_rows_rejected": "rows of no use: broken ones in prepare, those without a gradient in features",
    "instsel_busy_seconds": "seconds that actors worked, waiting and reading not counted",
}
GAUGES = {
    "instsel_training_step": "optimizer steps of the run under way",
    "instsel_training_steps": "optimizer steps that the run will have",
    "instsel_training_loss": "mean loss of the last step, nats",
}
TAGS = ("study", "stage")


class Meter:
    """Counts for one stage of one study, in this process."""

    def __init__(self, study: str, stage: str) -> None:
        """Create the metrics; they have the stage's name without that of a run."""
        tags = {"study": study, "stage": stage.partition("/")[0]}
        self._counters = {name: Counter(name, description, TAGS) for name, description in COUNTERS.items()}
        self._gauges = {name: Gauge(name, description, TAGS) for name, description in GAUGES.items()}
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags(tags)

    def count(self, *, rows: int = 0, tokens: int = 0, rejected: int = 0, seconds: float = 0.0) -> None:
        """Add work that was just done."""
        done = {"rows": rows, "tokens": tokens, "rows_rejected": rejected, "busy_seconds": seconds}
        for name, amount in done.items():
            # Ray rejects 0.
            if amount > 0:
                self._counters[f"instsel_{name}"].inc(amount)

    def count_item(self, ids: list[str], result: Mapping[str, Any], seconds: float) -> None:
        """Add an item that an actor has finished, with the counts in its result."""
        self.count(rows=len(ids), tokens=result.get("tokens", 0), rejected=result.get("rejected", 0), seconds=seconds)

    def show_step(self, step: Step) -> None:
        """Add a training step."""
        self.count(rows=step.rows, tokens=step.tokens)
        for name, value in {"step": step.number, "steps": step.of, "loss": step.loss}.items():
            self._gauges[f"instsel_training_{name}"].set(value)
