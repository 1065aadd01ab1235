"""Which finished stages differ from the study file as it was last run, without a look at the user's files."""

from collections.abc import Iterator, Mapping
from typing import Any

from instsel.study.folder import Manifest


def stale_settings(
    settings: Mapping[str, Mapping[str, Any]], manifests: Mapping[str, Manifest | None] | Mapping[str, Manifest]
) -> dict[str, list[str]]:
    """Find the finished stages that were made by other settings than the study file has now.

    A setting that only one of the two has is passed over: another version of instsel may have had others.

    Args:
        settings: stage -> its settings by the study file, see `StudyReader.stages`.
        manifests: stage -> its manifest; None of one that is not finished.

    Returns:
        Stage -> settings that differ, such as `finetune.epochs`.
    """
    stale = {}
    for name, manifest in manifests.items():
        if manifest is not None and name in settings:
            keys = list(_differences(manifest["settings"], settings[name]))
            if keys:
                stale[name] = keys
    return stale


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now.keys() & before.keys():
            yield from _differences(before[name], now[name], f"{key}.{name}" if key else name)
    elif before != now:
        yield key
