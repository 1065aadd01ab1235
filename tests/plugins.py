"""Packages that bring a selection method, written as an installer leaves them."""

from pathlib import Path

SHORTEST = '''
from typing import Literal

import numpy as np
from pydantic import Field

from instsel.selection.base import IndexData, Method, Selection


class Shortest(Method):
    """The shortest answers."""

    method: Literal["shortest"] = Field(description="rows with the fewest answer tokens")
    least: int = Field(0, ge=0, description="answer tokens that a row needs")

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        rows = np.flatnonzero(data.answer_tokens >= self.least)
        order = rows[np.argsort(data.answer_tokens[rows], kind="stable")][:budget]
        return Selection(order, data.answer_tokens[order].astype(float))

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        return [f"{score:.0f} answer tokens, few" for score in selection.scores]

    def details(self, data: IndexData) -> dict[str, dict[str, float]]:
        return {"lengths": {"mean": float(data.answer_tokens.mean())}}
'''


def write_package(folder: Path, name: str, module: str, code: str) -> str:
    """Write a module and the metadata of its package.

    Returns:
        The folder to put on the path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[instsel.methods]\nshortest = {module}:Shortest\n")
    return str(folder)
