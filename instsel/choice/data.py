"""From a study folder to the data that a method chooses from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.arrays import row_blocks
from instsel.choice.influence import influence_matrix, kernel_matrix
from instsel.io.matrix import Matrix, stack
from instsel.selection.base import AttributionSpec, Method, Requires
from instsel.selection.method_data import (
    EmbeddingData,
    GradientData,
    Groups,
    HiddenStateData,
    IndexData,
    InfluenceData,
    LikelihoodData,
    MethodData,
    PromptData,
)
from instsel.study.reader import StudyReader


def method_data(method: Method, spec: AttributionSpec | None, reader: StudyReader) -> MethodData:
    """Read what a method chooses from.

    Args:
        method: As the study file has it.
        spec: The influence that the method reads (`Method.attribution_spec`).
        reader: The study.

    Raises:
        InputError: the study has no result of a stage that the method needs.
    """
    return _READERS[method.requires](reader, spec, method.target_names)


def group_labels(reader: StudyReader, by: Groups, ids: Sequence[str]) -> pa.DictionaryArray:
    """Return the source, the source/task or the category of rows, as codes.

    Args:
        reader: The study.
        by: "source", "task" or "category".
        ids: Names of the rows.

    Raises:
        InputError: categories are asked for, and the study has none; or a row is not in the pool.
    """
    labels = reader.categories if by == "category" else _index_labels(reader.index, by)
    rows = reader.positions(ids)
    return labels if np.array_equal(rows, np.arange(len(labels))) else labels.take(pa.array(rows))


def _index_labels(index: pa.Table, by: Groups) -> pa.DictionaryArray:
    sources = index["source"].combine_chunks().dictionary_encode()
    if by == "source":
        return sources
    # A task is one of its source; names are made once for each pair.
    tasks = pc.fill_null(index["task"], "").combine_chunks().dictionary_encode()
    names, of_source = tasks.dictionary.to_pylist(), sources.dictionary.to_pylist()
    codes = sources.indices.to_numpy().astype(np.int64) * len(names) + tasks.indices.to_numpy()
    pairs, codes = np.unique(codes, return_inverse=True)
    labels = [f"{of_source[pair // len(names)]}/{names[pair % len(names)] or '-'}" for pair in pairs.tolist()]
    # "a/b" has a task "c" and "a" a task "b/c": these are one.
    unique = pa.array(labels, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(unique.indices.take(pa.array(codes)), unique.dictionary)


def columns_of_targets(matrix: Matrix, targets: Sequence[str] | None) -> Matrix:
    """Keep the columns of some targets; None keeps all."""
    if targets is None:
        return matrix
    kept = [column for column, target in enumerate(matrix.columns["target"].to_pylist()) if target in targets]
    rows = len(matrix.ids)
    blocks = (
        matrix.values[block][:, kept] for block in row_blocks(rows, matrix.values.shape[1] * matrix.values.itemsize)
    )
    return Matrix(matrix.ids, stack(blocks, rows, len(kept)), matrix.columns.take(pa.array(kept)))


_Targets = Sequence[str] | None


def _labels_of(reader: StudyReader, ids: Sequence[str]) -> Callable[[Groups], pa.DictionaryArray]:
    return lambda by: group_labels(reader, by, ids)


def _index(reader: StudyReader, spec: AttributionSpec | None, targets: _Targets) -> IndexData:
    index = reader.index
    ids = index["id"].to_pylist()
    answer_tokens, tokens = (index[name].to_numpy() for name in ("answer_tokens", "tokens"))
    return IndexData(ids, answer_tokens, tokens, labels_of=_labels_of(reader, ids))


def _likelihood(reader: StudyReader, spec: AttributionSpec | None, targets: _Targets) -> LikelihoodData:
    table = reader.likelihoods()
    ids = table["id"].to_pylist()
    loss, loss_alone = (table[name].to_numpy() for name in ("loss", "loss_alone"))
    return LikelihoodData(ids, loss, loss_alone, labels_of=_labels_of(reader, ids))


def _embeddings(reader: StudyReader, spec: AttributionSpec | None, targets: _Targets) -> EmbeddingData:
    matrix = reader.embeddings()
    return EmbeddingData(matrix.ids, matrix.values, labels_of=_labels_of(reader, matrix.ids))


def _hidden_states(reader: StudyReader, spec: AttributionSpec | None, targets: _Targets) -> HiddenStateData:
    pool, validation = reader.representations(targets)
    return HiddenStateData(pool.ids, pool.values, pool.columns, validation, labels_of=_labels_of(reader, pool.ids))


@dataclass(frozen=True)
class _PoolPrompts:
    """The prompts of the pool, read from their shards by every loop over them."""

    reader: StudyReader

    def __iter__(self) -> Iterator[str]:
        return self.reader.prompts()


def _prompts(reader: StudyReader, spec: AttributionSpec | None, targets: _Targets) -> PromptData:
    ids = reader.index["id"].to_pylist()
    columns, validation = reader.validation_prompts(targets)
    return PromptData(ids, _PoolPrompts(reader), columns, validation, labels_of=_labels_of(reader, ids))


def _influence(reader: StudyReader, spec: AttributionSpec | None, targets: _Targets) -> InfluenceData:
    matrix = columns_of_targets(influence_matrix(reader, _required(spec)), targets)
    return InfluenceData(matrix.ids, matrix.values, matrix.columns, labels_of=_labels_of(reader, matrix.ids))


def _gradients(reader: StudyReader, spec: AttributionSpec | None, targets: _Targets) -> GradientData:
    pool, validation = kernel_matrix(reader, _required(spec), targets)
    return GradientData(pool.ids, pool.values, pool.columns, validation, labels_of=_labels_of(reader, pool.ids))


def _required(spec: AttributionSpec | None) -> AttributionSpec:
    if spec is None:
        raise ValueError("a method that requires influence or gradients must have an attribution_spec, got None")
    return spec


_READERS: dict[Requires, Callable[[StudyReader, AttributionSpec | None, _Targets], MethodData]] = {
    "index": _index,
    "influence": _influence,
    "gradients": _gradients,
    "embeddings": _embeddings,
    "hidden_states": _hidden_states,
    "likelihood": _likelihood,
    "prompts": _prompts,
}
