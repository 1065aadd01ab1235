"""Training rows in an Arrow file that every worker maps into memory."""

from collections.abc import Sequence
from typing import Any, overload

import pyarrow as pa

from instsel.errors import InputError
from instsel.storage import Folder

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
