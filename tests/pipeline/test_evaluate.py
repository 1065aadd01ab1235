"""Which adapter of a run is evaluated."""

from instsel.io.store import Folder
from instsel.pipeline.evaluate import adapter_of
from instsel.study.folder import StageFolder


def test_the_last_of_ten_epochs_is_evaluated_and_not_the_ninth(tmp_path):
    stage = StageFolder(Folder.at(tmp_path), "finetune/bids", {})
    stage.start()
    stage.commit({"run": "run", "checkpoints": {f"epoch-{epoch}": {"epoch": epoch} for epoch in range(1, 11)}})
    assert str(adapter_of(stage.folder, stage.manifest()["result"])).endswith("run/epoch-10")
