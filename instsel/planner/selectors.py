"""What selectors take: how their work grows with the study, and the memory of the driver while it selects."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from instsel.io.matrix import MAPPED_BYTES
from instsel.selection.methods import (
    AnyMethod,
    BidsMethod,
    FacilityLocationMethod,
    G2isMethod,
    GraphCutMethod,
    LogDetMethod,
    RdsMethod,
    SmartMethod,
)
from instsel.study.estimates import FLOAT32, MIB

FLOAT64 = 8
# Of the pool's index: the table, ids as Python texts twice, and tokens by id.
INDEX_ROW_BYTES = 330
# Above these facility location and g2is compute anew what they hold below, see the selectors.
KERNEL_BYTES = 2**30
WALK_BYTES = 2**33


@dataclass(frozen=True)
class Shape:
    """What selectors choose from.

    Attributes:
        rows: of the pool.
        chosen: rows of a selection.
        columns: of an influence matrix.
        checkpoints: that gradients were taken at.
        dim: of a gradient's sketch.
        embedding: entries of a prompt's embedding.
        hidden: entries of a representation.
        groups: "source" and "task" -> how many rows each has.
    """

    rows: int
    chosen: int
    columns: int = 0
    checkpoints: int = 0
    dim: int = 0
    embedding: int = 0
    hidden: int = 0
    groups: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def width(self, method: AnyMethod) -> int:
        """Entries that a method reads of a row; 0 for one that reads the index or losses alone."""
        gradient = self.checkpoints * self.dim
        widths = {
            "attribution": self.columns,
            "features": gradient,
            "embed": self.embedding,
            "hidden_states": self.hidden,
        }
        return widths.get(method.requires, 0)

    def pools(self, method: AnyMethod) -> list[float]:
        """Rows of the pools that a method chooses in, one after the other."""
        return list(self.groups[method.by]) if isinstance(method, SmartMethod) else [self.rows]


def function_of(method: AnyMethod) -> AnyMethod:
    """What does a method's work: the function that smart chooses the rows of a task by, else itself."""
    if not isinstance(method, SmartMethod):
        return method
    functions: dict[str, AnyMethod] = {
        "facility_location": FacilityLocationMethod(method="facility_location"),
        "graph_cut": GraphCutMethod(method="graph_cut", lam=method.lam),
        "log_det": LogDetMethod(method="log_det"),
    }
    return functions[method.instance_function]


def work(method: AnyMethod, shape: Shape) -> float:
    """A number that grows as the time of a choice does where the widths stay as they are.

    With n rows and k picks facility location grows as n^2 (1 + ln k): the t-th pick serves about n / t rows better than
    any before, and each of them is compared with all. Other methods that look at the pool at every pick grow as n k;
    what is left reads the pool once, or ranks it.
    """
    function, per_row = function_of(method), shape.chosen / shape.rows
    if isinstance(function, FacilityLocationMethod):
        return sum(rows**2 * (1 + math.log(max(1.0, per_row * rows))) for rows in shape.pools(method))
    if isinstance(function, G2isMethod | GraphCutMethod | LogDetMethod):
        return sum(rows**2 * per_row for rows in shape.pools(method))
    return float(shape.rows)


def choices(method: AnyMethod, shape: Shape, unit: str) -> Iterator[Shape]:
    """The choices that are made to keep a budget: one of rows, and of tokens as `choice.within` finds their number."""
    if unit == "rows":
        yield shape
        return
    if method.is_prefix_stable:
        yield replace(shape, chosen=min(shape.rows, 1 + round(1.5 * shape.chosen)))
        return
    low, high = 0, shape.rows
    while low < high:
        rows = (low + high + 1) // 2
        yield replace(shape, chosen=rows)
        low, high = (rows, high) if rows <= shape.chosen else (low, rows - 1)


def selector_memory(method: AnyMethod, shape: Shape, damping: float | None) -> int:
    """Memory of the driver beside the libraries while a method chooses: ids, what it reads, and its own.

    Args:
        method: as the study file has it.
        shape: what it chooses from.
        damping: of the influence that the method reads; None for cosines.
    """
    read = _read_bytes(method, shape)
    whitening = 0
    if isinstance(method, G2isMethod) and damping is not None:
        whitening = (FLOAT64 * shape.checkpoints + 4 * FLOAT64) * shape.dim**2
    held = read if read <= MAPPED_BYTES else 0
    return shape.rows * INDEX_ROW_BYTES + held + max(whitening, _own_bytes(method, shape))


def selector_scratch(method: AnyMethod, shape: Shape) -> int:
    """Bytes of the temporary file that a matrix too large for the memory is laid out in, see `choice.matrices`."""
    read = _read_bytes(method, shape)
    return read if read > MAPPED_BYTES else 0


def holds_kernel(rows: float) -> bool:
    """Whether facility location holds the cosines of all pairs of so many rows."""
    return FLOAT32 * rows**2 <= KERNEL_BYTES


def holds_units(shape: Shape) -> bool:
    """Whether g2is holds the unit gradients."""
    return FLOAT32 * shape.rows * shape.checkpoints * shape.dim <= WALK_BYTES


def _read_bytes(method: AnyMethod, shape: Shape) -> int:
    return FLOAT32 * shape.rows * shape.width(method)


def _own_bytes(method: AnyMethod, shape: Shape) -> int:
    rows, chosen, columns = shape.rows, shape.chosen, shape.columns
    if method.requires == "embed":
        return _submodular_bytes(method, round(max(shape.pools(method))), shape.embedding)
    if isinstance(method, G2isMethod):
        return FLOAT32 * rows * shape.width(method) if holds_units(shape) else 3 * 32 * MIB
    if isinstance(method, RdsMethod):
        ranking = min(256 * MIB, 24 * columns * chosen)
        return ranking + min(128 * MIB, 12 * rows * (shape.hidden + columns))
    blocks = rows * columns * FLOAT64
    if isinstance(method, BidsMethod):
        return 12 * chosen * columns + 3 * min(128 * MIB, blocks)
    return 3 * min(32 * MIB, blocks) if method.requires == "attribution" else 0


def _submodular_bytes(method: AnyMethod, rows: int, embedding: int) -> int:
    """Unit rows in float64, and beside them what the function keeps."""
    units, function = FLOAT64 * rows * embedding, function_of(method)
    if isinstance(function, FacilityLocationMethod) and holds_kernel(rows):
        return units + FLOAT32 * rows**2
    return units + FLOAT64 * embedding**2 if isinstance(function, LogDetMethod) else units
