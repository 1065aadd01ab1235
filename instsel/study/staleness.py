"""On what a finished stage differs from the study file as it is now, without the user's own files."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from instsel.config.study import StudyConfig
from instsel.study.graph import settings_of


def stale_stages(study: StudyConfig, manifests: Mapping[str, Mapping[str, Any] | None]) -> dict[str, list[str]]:
    """Finished stages that were made by other settings than the study file has now.

    A setting that only one of the two has is passed over: another version of instsel may have had others.

    Args:
        study: the study file.
        manifests: stage -> what it says of itself; None of one that is not finished.

    Returns:
        Stage -> settings that differ, `finetune.epochs`.
    """
    # As it is read from a manifest: without tuples.
    asked = json.loads(json.dumps(settings_of(study)))
    found = {}
    for name, manifest in manifests.items():
        keys = list(_different(manifest["config"], asked[name])) if manifest is not None and name in asked else []
        if keys:
            found[name] = keys
    return found


def _different(made: Any, asked: Any, key: str = "") -> Iterator[str]:
    if isinstance(made, dict) and isinstance(asked, dict):
        for name in asked.keys() & made.keys():
            yield from _different(made[name], asked[name], f"{key}.{name}" if key else name)
    elif made != asked:
        yield key
