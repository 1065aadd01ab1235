"""The type that a model computes in, settled once a study and kept in its folder."""

from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.models.dtypes import Settled, with_dtype
from instsel.study.folder import STUDY, read_study_entry


def read_dtype(folder: Folder) -> Settled | None:
    """Return what was settled for the study in this folder; None if nothing was yet."""
    entry = read_study_entry(folder) if folder.exists(STUDY) else {}
    return Settled(entry["dtype"], entry["dtype_why"]) if "dtype" in entry else None


def write_dtype(folder: Folder, settled: Settled) -> None:
    """Write down what was settled, beside the study's name."""
    folder.write_json(STUDY, {**read_study_entry(folder), "dtype": settled.dtype, "dtype_why": settled.why})


def with_settled_dtype(study: StudyConfig, folder: Folder) -> StudyConfig:
    """Return the study with what was settled in its folder in place of `auto`; with `auto` where nothing was yet."""
    settled = read_dtype(folder)
    return study if study.model.dtype != "auto" or settled is None else with_dtype(study, settled.dtype)
