"""Packages that bring a selection method or a filter, written as an installer leaves them."""

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


NO_LINKS = '''
from typing import Literal

from pydantic import Field

from instsel.filters.base import FilterRow, TextFilter


class NoLinks(TextFilter):
    """Rows without links."""

    filter: Literal["no_links"] = Field(description="links in a text")
    most: int = Field(0, ge=0, description="links that a row may have")

    def reject(self, row: FilterRow) -> str | None:
        return f"more than {self.most} links" if row.text(self.of).count("://") > self.most else None
'''


def write_package(
    folder: Path, name: str, module: str, code: str, point: str = "[instsel.methods]\nshortest = {module}:Shortest"
) -> str:
    """Write a module and the metadata of its package, with an entry point.

    Returns:
        The folder to put on the path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(point.format(module=module) + "\n")
    return str(folder)
