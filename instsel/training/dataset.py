"""The examples of a training run, and the order in which it has them."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from instsel.errors import InputError
from instsel.io.store import Folder

SCHEMA = pa.schema([("id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


class TrainingSet(Sequence[dict[str, list[int]]]):
    """Examples of an Arrow file with the columns of `SCHEMA`: a row is read when it is asked for."""

    def __init__(self, folder: Folder, name: str) -> None:
        """Open the file `name` in a folder, memory-mapped where the folder is local.

        Raises:
            InputError: there is no such file, a column is missing or of another type, or there is no row.
        """
        place = f"{folder}/{name}"
        if not folder.exists(name):
            raise InputError(f"training set {place} does not exist")
        table = folder.read_table(name)
        for column in SCHEMA:
            index = table.schema.get_field_index(column.name)
            if index < 0 or table.schema.field(index).type != column.type:
                found = "is missing" if index < 0 else f"is {table.schema.field(index).type}"
                raise InputError(f"{place}: column {column.name} {found}; expected {column.type}")
        if not table.num_rows:
            raise InputError(f"{place} has no rows; training needs at least one")
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
    """Write which row comes when.

    Args:
        folder: of the run.
        passes: places of the rows in the training set, one array (N,) a pass.
        ids: of the rows, N of them.
        levels: (N,), their levels.
    """
    places = np.concatenate(passes)
    number = np.repeat(np.arange(1, len(passes) + 1), [len(order) for order in passes])
    columns = {"pass": number, "place": places, "id": [ids[place] for place in places.tolist()]}
    folder.write_table(ORDER, pa.table({**columns, "level": np.asarray(levels)[places]}))


def read_order(folder: Folder) -> list[NDArray[np.int64]] | None:
    """The passes that `write_order` wrote; None where the run has no order of its own."""
    if not folder.exists(ORDER):
        return None
    table = folder.read_table(ORDER, ["pass", "place"])
    number, places = table["pass"].to_numpy(), table["place"].to_numpy()
    return [places[number == one] for one in range(1, int(number.max()) + 1)]


def check_order(passes: Sequence[NDArray[np.int64]], rows: int, epochs: int) -> None:
    """Refuse an order that is not of this training.

    Raises:
        InputError: there is not a pass an epoch, or a pass names a row that is not there or has another length.
    """
    if len(passes) != epochs:
        raise InputError(f"the order has {len(passes)} passes, the training {epochs} epochs")
    for number, order in enumerate(passes, start=1):
        if len(order) != rows or (len(order) and not (order.min() >= 0 and order.max() < rows)):
            raise InputError(f"pass {number} of the order does not fit a training set of {rows} rows")
