"""The dtype that a study decided for `model.dtype: auto`, recorded in its folder."""

from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.models.dtypes import DtypeDecision, with_dtype
from instsel.study.folder import STUDY, StudyEntry, read_study_entry


def read_dtype(folder: Folder) -> DtypeDecision | None:
    """Read the decision recorded in a study folder; None if there is none yet."""
    entry = read_study_entry(folder) if folder.exists(STUDY) else None
    if entry is None or "dtype" not in entry:
        return None
    return DtypeDecision(entry["dtype"], entry["dtype_reason"])


def write_dtype(folder: Folder, decision: DtypeDecision) -> None:
    """Record a decision in a study folder, beside the study's name."""
    entry: StudyEntry = {**read_study_entry(folder), "dtype": decision.dtype, "dtype_reason": decision.reason}
    folder.write_json(STUDY, entry)


def with_recorded_dtype(study: StudyConfig, folder: Folder) -> StudyConfig:
    """Return the study with the recorded dtype in place of `auto`; unchanged if nothing is recorded yet."""
    decision = read_dtype(folder)
    return study if study.model.dtype != "auto" or decision is None else with_dtype(study, decision.dtype)
