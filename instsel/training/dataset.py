"""The examples of a training run, and the order in which it visits them."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from instsel.errors import InputError
from instsel.io.store import Folder

SCHEMA = pa.schema([("id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


class TrainingSet(Sequence[dict[str, list[int]]]):
    """Examples of an Arrow file with the columns of `SCHEMA`; rows are read on access."""

    def __init__(self, folder: Folder, name: str) -> None:
        """Open the file `name` in a folder, memory-mapped if the folder is local.

        Raises:
            InputError: the file does not exist or has no rows, or a column is missing or of another type.
        """
        uri = f"{folder}/{name}"
        if not folder.exists(name):
            raise InputError(f"training set {uri} does not exist")
        table = folder.read_table(name)
        for column in SCHEMA:
            index = table.schema.get_field_index(column.name)
            if index < 0 or table.schema.field(index).type != column.type:
                fault = "is missing" if index < 0 else f"is {table.schema.field(index).type}"
                raise InputError(f"{uri}: column {column.name} {fault}; expected {column.type}")
        if not table.num_rows:
            raise InputError(f"{uri} has no rows; training needs at least one")
        self._input_ids, self._labels = table["input_ids"], table["labels"]

    def __len__(self) -> int:
        return len(self._input_ids)

    @overload
    def __getitem__(self, index: int) -> dict[str, list[int]]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, list[int]]]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return {"input_ids": self._input_ids[int(index)].as_py(), "labels": self._labels[int(index)].as_py()}


ORDER = "order.parquet"


def write_order(
    folder: Folder, passes: Sequence[NDArray[np.int64]], ids: Sequence[str], levels: NDArray[np.int64]
) -> None:
    """Write the order of the rows in every pass.

    Args:
        folder: of the run.
        passes: indices of the rows in the training set, an array (N,) per pass.
        ids: of the N rows.
        levels: (N,), of the rows.
    """
    rows = np.concatenate(passes)
    pass_of = np.repeat(np.arange(1, len(passes) + 1), [len(order) for order in passes])
    columns = {"pass": pass_of, "index": rows, "id": [ids[row] for row in rows.tolist()]}
    folder.write_table(ORDER, pa.table({**columns, "level": np.asarray(levels)[rows]}))


def read_order(folder: Folder) -> list[NDArray[np.int64]] | None:
    """Read the passes that `write_order` wrote; None if the run has no explicit order."""
    if not folder.exists(ORDER):
        return None
    table = folder.read_table(ORDER, ["pass", "index"])
    pass_of, rows = table["pass"].to_numpy(), table["index"].to_numpy()
    return [rows[pass_of == number] for number in range(1, int(pass_of.max()) + 1)]


def check_order(passes: Sequence[NDArray[np.int64]], rows: int, epochs: int) -> None:
    """Check that an order belongs to this training.

    Raises:
        InputError: there is not one pass per epoch, or a pass has another length or an index out of range.
    """
    if len(passes) != epochs:
        raise InputError(f"the order has {len(passes)} passes, the training {epochs} epochs")
    for number, order in enumerate(passes, start=1):
        if len(order) != rows or (len(order) and not (order.min() >= 0 and order.max() < rows)):
            raise InputError(f"pass {number} of the order does not fit a training set of {rows} rows")
