"""Pictures show the names of categories as they are written."""

import pytest

from instsel.report import pictures


@pytest.mark.parametrize("name", ["$\\frac{$", "$x$", "<script>alert(1)</script>", "a & b"])
def test_a_name_is_no_formula_and_no_markup(name: str) -> None:
    svg = pictures.heatmap([name, "b"], [[1.0, 0.5], [0.25, 1.0]], [[0.1, 0.1], [0.1, 0.1]]).decode()
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert svg.count(f">{escaped}</text>") == 2
    assert "<script" not in svg
