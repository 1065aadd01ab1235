"""What the features of a study depend on: written into every shard of them, and asked for by who reads one."""

from typing import Any

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.gradients.features import require_provenance
from instsel.io.fingerprint import digest_in
from instsel.io.store import Folder
from instsel.study.folder import StageFolder
from instsel.training.checkpoint import ADAPTER, MOMENTS, STATE

PROVENANCE = "provenance.json"
LOSS = "mean answer-token cross-entropy per example"

Provenance = dict[str, dict[str, dict[str, Any]]]
"""Checkpoint -> kind of rows (pool, validation) -> pins."""


def feature_provenance(study: StudyConfig, stage: StageFolder, prepare: StageFolder, warmup: StageFolder) -> Provenance:
    """The pins of the features stage's shards, JSON values only.

    Adapter and moments are told by the digest of their file, the base model as `identity.model_identity` does. Pool
    rows are Adam directions; validation rows are plain gradients, which no moments enter (LESS, arXiv 2402.04333,
    Definition 3.1).
    """
    model = warmup.config["model"]
    result = warmup.manifest()["result"]
    shared = {
        "stage": stage.fingerprint,
        "model": model["identity"],
        "dtype": model["dtype"],
        "attention": model["attention"],
        **prepare.manifest()["result"]["tokenizer"],
        "loss": LOSS,
        "sketch": {"kind": "count sketch", "dim": study.features.dim, "seed": study.features.seed},
        "storage": study.features.storage,
    }
    return {name: _of_checkpoint(warmup.folder / result["run"] / name, shared) for name in result["checkpoints"]}


def settle_provenance(stage: StageFolder, provenance: Provenance, terminal: Terminal) -> None:
    """Note what a stage's shards depend on; empty the stage if an interrupted run made them from something else.

    The stage's fingerprint does not tell: a warmup that was done again has the same and may have other weights.
    """
    if stage.folder.exists(PROVENANCE):
        try:
            require_provenance(stage.folder.read_json(PROVENANCE), provenance)
            return
        except ValueError as error:
            terminal.say(f"the shards that are there do not match and are made anew: {error}")
        stage.folder.remove()
        stage.start()
    stage.folder.write_json(PROVENANCE, provenance)


def _of_checkpoint(folder: Folder, shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    state = folder.read_json(STATE)
    adam = {"kind": "Adam direction", "betas": state["betas"], "eps": state["eps"]}
    shared = {**shared, "adapter": digest_in(folder, ADAPTER)}
    return {
        "pool": {**shared, "moments": digest_in(folder, MOMENTS), "gradient": adam},
        "validation": {**shared, "moments": None, "gradient": {"kind": "plain"}},
    }
