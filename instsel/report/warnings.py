"""Whether a study's results are those that its stages wrote."""

from collections.abc import Mapping

import numpy as np

from instsel.choice.output import TABLE
from instsel.report.record import StudyRecord
from instsel.study.folder import Manifest, stage_fingerprint
from instsel.study.staleness import stale_settings

MOST_NAMED = 3
_TOLERANCE = 1e-9


def warnings(record: StudyRecord) -> list[str]:
    """Say what does not fit together in a study folder, a sentence each; empty where everything does.

    The settings of each stage are compared with the study file. A manifest's fingerprint is computed again from what
    it says the stage depended on, and compared with what later stages were made from; the losses and the counts of
    rows are compared with the tables beside them.
    """
    sentences = _stale(record)
    for name, manifest in record.manifests.items():
        sentences += _chain(name, manifest, record.manifests)
    for name, result in record.results("select").items():
        rows = len((record.folder / "select" / name).read_table(TABLE, ["id"]))
        if rows != result["rows"]:
            sentences.append(f"select/{name}/{TABLE} has {rows:,} rows, but its manifest says {result['rows']:,}")
    for name, result in record.results("evaluate").items():
        sentences += _losses(record, name, result["losses"])
    return sentences


def _stale(record: StudyRecord) -> list[str]:
    by_keys: dict[str, list[str]] = {}
    for name, keys in stale_settings(record.reader.stages(), record.manifests).items():
        by_keys.setdefault(", ".join(sorted(keys)), []).append(name)
    return [f"{_first(names)}: made by another study file, with other {keys}" for keys, names in by_keys.items()]


def _first(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def _chain(name: str, manifest: Manifest, manifests: Mapping[str, Manifest]) -> list[str]:
    content = (manifest["version"], manifest["settings"], manifest["inputs"], manifest["parents"])
    sentences = []
    if stage_fingerprint(manifest["stage"], *content) != manifest["fingerprint"]:
        sentences.append(f"{name}/manifest.json was edited: its fingerprint does not match what it says")
    for parent, expected in manifest["parents"].items():
        if parent in manifests and manifests[parent]["fingerprint"] != expected:
            sentences.append(f"{name} was made from another {parent} than the one that is there now")
    return sentences


def _losses(record: StudyRecord, run: str, losses: Mapping[str, float]) -> list[str]:
    sentences = []
    # Only the study's own targets: a name from elsewhere could lead out of the folder.
    for target in (target for target in record.config.targets if target in losses):
        folder, file = record.folder / "evaluate" / run, f"{target}.parquet"
        if not folder.exists(file):
            sentences.append(f"evaluate/{run}/{file} is gone, but the manifest has its mean loss")
            continue
        mean = folder.read_table(file, ["loss"])["loss"].to_numpy().mean()
        if not np.isclose(mean, losses[target], rtol=_TOLERANCE, atol=_TOLERANCE):
            sentences.append(f"evaluate/{run}/{file} was edited: its mean loss is not what the manifest says")
    return sentences
