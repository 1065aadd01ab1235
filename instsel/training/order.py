"""The order of a training by a curriculum, kept as a table beside the run it is of."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from instsel.errors import InputError
from instsel.storage import Folder

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
        if len(order) != rows or (len(order) and not (0 <= order.min() and order.max() < rows)):
            raise InputError(f"pass {number} of the order does not fit a training set of {rows} rows")
