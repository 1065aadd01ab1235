"""Whether a study's results are those that its stages wrote."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instsel.choice.output import TABLE
from instsel.report.facts.record import Record
from instsel.study.folder import stage_fingerprint
from instsel.study.staleness import stale_settings

NAMED = 3
_TOLERANCE = 1e-9


def warnings(record: Record) -> list[str]:
    """What does not fit together in a study folder, a sentence each; empty where all does.

    The settings of each stage are compared with the study file. A manifest's fingerprint is worked out again from what
    it says the stage depended on, and compared with what the stages after it were made from; the losses and the counts
    of rows are compared with the tables beside them.
    """
    found = _of_another_file(record)
    for name, manifest in record.manifests.items():
        found += _chain(name, manifest, record.manifests)
    for name, result in record.results("select").items():
        rows = len((record.folder / "select" / name).read_table(TABLE, ["id"]))
        if rows != result["rows"]:
            found.append(f"select/{name}/{TABLE} has {rows:,} rows, but its manifest says {result['rows']:,}")
    for name, result in record.results("evaluate").items():
        found += _losses(record, name, result["losses"])
    return found


def _of_another_file(record: Record) -> list[str]:
    by_keys: dict[str, list[str]] = {}
    for name, keys in stale_settings(record.reader.stages(), dict(record.manifests)).items():
        by_keys.setdefault(", ".join(sorted(keys)), []).append(name)
    return [f"{_some(names)}: made by another study file, with other {keys}" for keys, names in by_keys.items()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _chain(name: str, manifest: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    own = stage_fingerprint(
        manifest["stage"], manifest["version"], manifest["settings"], manifest["inputs"], manifest["parents"]
    )
    found = []
    if own != manifest["fingerprint"]:
        found.append(f"{name}/manifest.json was edited: its fingerprint does not match what it says")
    for parent, expected in manifest["parents"].items():
        if parent in manifests and manifests[parent]["fingerprint"] != expected:
            found.append(f"{name} was made from another {parent} than the one that is there now")
    return found


def _losses(record: Record, run: str, losses: Mapping[str, float]) -> list[str]:
    found = []
    # Only the study's own targets: a name from elsewhere could lead out of the folder.
    for target, told in ((name, losses[name]) for name in record.study.targets if name in losses):
        if not (record.folder / "evaluate" / run).exists(f"{target}.parquet"):
            found.append(f"evaluate/{run}/{target}.parquet is gone, but the manifest has its mean loss")
            continue
        values = (record.folder / "evaluate" / run).read_table(f"{target}.parquet", ["loss"])["loss"].to_numpy()
        if not np.isclose(values.mean(), told, rtol=_TOLERANCE, atol=_TOLERANCE):
            found.append(f"evaluate/{run}/{target}.parquet was edited: its mean loss is not what the manifest says")
    return found
