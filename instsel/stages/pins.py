"""What the features of a study depend on: written into every shard of them, and asked for by who reads one."""

from typing import Any

from instsel.config import StudyConfig
from instsel.identity import digest_in, tokenizer_identity
from instsel.model import load_tokenizer
from instsel.storage import Folder
from instsel.study import Stage
from instsel.training.checkpoint import ADAPTER, MOMENTS, STATE

LOSS = "mean answer-token cross-entropy per example"

Pins = dict[str, dict[str, dict[str, Any]]]
"""Checkpoint -> kind of rows (pool, validation) -> pins."""


def feature_pins(study: StudyConfig, stage: Stage, warmup: Stage) -> Pins:
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
        **tokenizer_identity(load_tokenizer(study.model)),
        "loss": LOSS,
        "sketch": {"kind": "count sketch", "dim": study.features.dim, "seed": study.features.seed},
        "storage": study.features.storage,
    }
    return {name: _of_checkpoint(warmup.folder / result["run"] / name, shared) for name in result["checkpoints"]}


def _of_checkpoint(folder: Folder, shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    state = folder.read_json(STATE)
    adam = {"kind": "Adam direction", "betas": state["betas"], "eps": state["eps"]}
    shared = {**shared, "adapter": digest_in(folder, ADAPTER)}
    return {
        "pool": {**shared, "moments": digest_in(folder, MOMENTS), "gradient": adam},
        "validation": {**shared, "moments": None, "gradient": {"kind": "plain"}},
    }
