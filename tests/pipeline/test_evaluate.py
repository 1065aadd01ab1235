"""Which adapter of a run is evaluated."""

from instsel.study.results import Checkpoint, TrainingResult


def test_the_last_of_ten_epochs_is_evaluated_and_not_the_ninth():
    checkpoints = {
        f"epoch-{epoch}": Checkpoint(epoch=epoch, step=epoch, loss=1.0, learning_rate=0.1, tokens=5, seconds=0.1)
        for epoch in range(1, 11)
    }
    result = TrainingResult(run="run", checkpoints=checkpoints)
    assert (result.last, result.tokens) == ("run/epoch-10", 50)
