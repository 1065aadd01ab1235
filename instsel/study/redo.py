"""What a changed study file, input or version would redo, what that cost, and what is kept of it."""

from collections.abc import Callable, Sequence

from instsel.console import log
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.folder import KEPT_SECONDS, MANIFEST, STALE, STUDY, StageFolder, duration, read_study_entry
from instsel.study.graph import StageGraph, stale_settings
from instsel.study.lease import hold_lease


def restore_stale(graph: StageGraph, until: str, say: Callable[[str], None]) -> None:
    """Bring back what an earlier run set aside and what the study file now asks for again."""
    for stage in graph.until(until):
        if stage.restore():
            say(f"{stage.name}: results of these settings were in {graph.folder / STALE}, and are used again")


def check_redo(stages: Sequence[StageFolder], folder: Folder, redo: bool, say: Callable[[str], None]) -> None:
    """Say which stages would be done again although they took long, and what happens to what is there.

    Args:
        stages: that have something to do.
        folder: of the study.
        redo: whether that was asked for.
        say: takes lines for the terminal.

    Raises:
        InputError: the study is behind a URI, where nothing can be set aside, and it was not asked for.
    """
    spent = {stage.name: (stage, stage.seconds_spent()) for stage in stages if stage.is_stale()}
    costly = {name: each for name, each in spent.items() if each[1] > KEPT_SECONDS}
    if not costly:
        return
    lines = [f"{name} took {duration(seconds)}: {_reason(stage)}" for name, (stage, seconds) in costly.items()]
    if folder.is_local:
        for line in lines:
            say(f"redone: {line}")
        say(
            f"what was there is kept in {folder / STALE}; the earlier study file brings it back, "
            f"`instsel clean {folder}` deletes it"
        )
        return
    if not redo:
        raise InputError(
            "\n  ".join(["--redo: these results would be deleted and made again:", *lines])
            + "\n  run with --redo to do so, or change back what differs, or give the study another `out`"
        )
    for line in lines:
        say(f"deleted and redone: {line}")


def _reason(stage: StageFolder) -> str:
    """Return why a stage is stale, in a few words."""
    if not stage.folder.exists(MANIFEST):
        return "it was not finished, and was begun with other settings, inputs or another version"
    try:
        manifest = stage.manifest()
    except InputError as error:
        log.debug("%s", error)
        return "its manifest is damaged"
    if manifest["version"] != stage.version:
        return f"version {manifest['version']} of the stage wrote it, this is version {stage.version}"
    settings = stale_settings({stage.name: dict(stage.settings)}, {stage.name: manifest}).get(stage.name, [])
    if settings:
        return f"changed {', '.join(settings)}"
    if manifest["inputs"] != dict(stage.inputs):
        differing = [name for name in stage.inputs if stage.inputs[name] != manifest["inputs"].get(name)]
        return f"changed inputs {', '.join(differing)}"
    now = {parent.name: parent.fingerprint for parent in stage.parents}
    parents = [name for name, value in now.items() if manifest["parents"].get(name) != value]
    return f"made from another {', '.join(parents)}" if parents else "its settings have other keys"


def clean_study(uri: str, say: Callable[[str], None]) -> None:
    """Delete the results of earlier settings in a study's folder.

    Raises:
        InputError: there is no study, or a command is writing to it.
    """
    folder = Folder.at(uri)
    if not folder.exists(STUDY):
        raise InputError(f"{uri} is no study folder; give the `out` of a study that has run")
    read_study_entry(folder)
    with hold_lease(folder, say):
        stale = folder / STALE
        names, size = stale.names(), stale.size()
        stale.remove()
    say(f"{uri}: " + (f"deleted {', '.join(names)}, {size / 1e6:,.1f} MB" if names else "nothing to delete"))
