"""What divides the pool's rows: their source, their source's task, or their category."""

from collections.abc import Sequence

from instsel.choice.inputs import Inputs


def groups_of(inputs: Inputs, by: str, ids: Sequence[str]) -> list[str]:
    """The source, the source/task or the category of rows.

    Args:
        inputs: the study.
        by: "source", "task" or "category".
        ids: of the rows.

    Raises:
        InputError: categories are asked for, and the study has none.
    """
    if by == "category":
        return [inputs.category_of[row] for row in ids]
    index = inputs.index
    names = index["source"].to_pylist()
    if by == "task":
        names = [f"{source}/{task or '-'}" for source, task in zip(names, index["task"].to_pylist(), strict=True)]
    found = dict(zip(index["id"].to_pylist(), names, strict=True))
    return [found[row] for row in ids]
