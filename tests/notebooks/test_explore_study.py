"""The notebook runs from top to bottom, and is stored without what it showed."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks/explore_study.ipynb"


@pytest.fixture
def notebook() -> Any:
    """The notebook as it is stored."""
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert not [cell.source for cell in cells if cell.outputs or cell.execution_count]


def test_it_runs_from_top_to_bottom(notebook, finished_study, tmp_path, monkeypatch):
    out = shutil.copytree(finished_study["out"], tmp_path / "study")
    monkeypatch.setenv("INSTSEL_STUDY", str(out))
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert (out / "selections/only-cities/selected.jsonl").exists()
