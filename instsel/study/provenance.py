"""What the features of a study depend on: written into every shard of them, and checked by every reader."""

from typing import Any

from instsel.console import Terminal
from instsel.gradients.features import require_provenance
from instsel.io.fingerprint import digest_in
from instsel.io.store import Folder
from instsel.study.folder import StageFolder
from instsel.study.results import PrepareResult, WarmupResult
from instsel.study.stage import RunContext, Settings
from instsel.training.schedule import ADAPTER, MOMENTS, STATE

PROVENANCE = "provenance.json"
LOSS = "mean answer-token cross-entropy per example"
CONTRAST_LOSS = "minus the log of the right answer's share among all answers to a row"

Provenance = dict[str, dict[str, Settings]]
"""Checkpoint -> kind of rows (pool, validation) -> what the shards depend on."""


def feature_provenance(context: RunContext) -> Provenance:
    """Return what the shards of the *features* stage depend on, JSON values only, as its parents are now.

    Adapter and moments are identified by the digest of their file, the base model by `model_files.model_identity`. Pool
    rows are Adam directions; validation rows are plain gradients, which no moments enter (LESS, arXiv 2402.04333,
    Definition 3.1).
    """
    warmup, features = context.stage("warmup"), context.config.features
    model: Any = warmup.inputs["model"]
    trained = warmup.result(WarmupResult)
    shared: Settings = {
        "stage": context.stage("features").fingerprint,
        "model": model["identity"],
        "dtype": model["dtype"],
        "attention": model["attention"],
        **context.stage("prepare").result(PrepareResult).tokenizer,
        "loss": LOSS,
        "sketch": {"kind": "count sketch", "dim": features.dim, "seed": features.seed},
        "storage": features.storage,
    }
    return {name: _of_checkpoint(warmup.folder / trained.run / name, shared) for name in trained.checkpoints}


def contrast_provenance(context: RunContext) -> Provenance:
    """Return what the tables of the *contrast* stage depend on: the plain gradients of certain answers."""
    answers = context.stage("answers", "validation").fingerprint
    return {
        name: {"validation": {**kinds["validation"], "loss": CONTRAST_LOSS, "answers": answers}}
        for name, kinds in feature_provenance(context).items()
    }


def settle_provenance(stage: StageFolder, provenance: Provenance, terminal: Terminal) -> None:
    """Note what a stage's shards depend on; empty the stage if an interrupted run made them from something else.

    The stage's fingerprint does not say: a warmup that was done again has the same and may have other weights.
    """
    if stage.folder.exists(PROVENANCE):
        try:
            require_provenance(stage.folder.read_json(PROVENANCE), provenance)
            return
        except ValueError as error:
            terminal.say(f"the existing shards do not match and are made again: {error}")
        stage.clear()
        stage.start()
    stage.folder.write_json(PROVENANCE, provenance)


def _of_checkpoint(folder: Folder, shared: Settings) -> dict[str, Settings]:
    state = folder.read_json(STATE)
    adam = {"kind": "Adam direction", "betas": state["betas"], "eps": state["eps"]}
    shared = {**shared, "adapter": digest_in(folder, ADAPTER)}
    return {
        "pool": {**shared, "moments": digest_in(folder, MOMENTS), "gradient": adam},
        "validation": {**shared, "moments": None, "gradient": {"kind": "plain"}},
    }
