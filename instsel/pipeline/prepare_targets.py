"""The targets' part of stage *prepare*: validation and held-out rows, and the index of their texts."""

import pyarrow as pa
import pyarrow.compute as pc

from instsel.config.rows import Target
from instsel.config.study import Data, Model, StudyConfig
from instsel.data.chat import check_tokenizer
from instsel.data.contamination import LeakIndex
from instsel.data.encode import (
    DUPLICATE,
    EXAMPLES,
    REJECTED,
    encode_lines,
    encoding_options,
    first_occurrences,
    numeric_ids,
    reasons,
    reject,
    smallest_ids,
)
from instsel.data.leaked_prompts import row_keys, shown_elsewhere
from instsel.data.readers import SourceFile, read_chunks
from instsel.data.sources import size_of, target_files
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.results import SplitCount

# Of a JSONL file, keys and quotes counted; enough to tell a large file from a small one.
BYTES_A_TOKEN = 5


def prepare_targets(
    study: StudyConfig, folder: Folder, scored: Folder | None = None
) -> dict[str, dict[str, SplitCount]]:
    """Write every target's rows and the index of their texts below the stage's folder.

    Args:
        study: the study file.
        folder: of the stage.
        scored: folder of stage *benchmarks*, whose items are indexed too; None without one.

    Returns:
        Target -> split -> counts.

    Raises:
        InputError: a target has no usable row.
    """
    import ray

    from instsel.runtime.session import useful_processes

    files = {name: target_files(study, name) for name in study.targets}
    tasks = useful_processes(len(files), sum(_bytes(files[name]) for name in files) / BYTES_A_TOKEN)
    dealt = [list(study.targets)[first::tasks] for first in range(tasks)]
    encoding = [
        ray.remote(_encode_targets).remote(
            folder / "targets",
            {name: study.targets[name] for name in names},
            {name: files[name] for name in names},
            study.model,
            study.data,
        )
        for names in dealt
    ]
    by_target = {name: counts for of_task in ray.get(encoding) for name, counts in of_task.items()}
    counts = {name: by_target[name] for name in study.targets}
    for name, heldout in ray.get(ray.remote(_reject_shown).remote(folder / "targets", list(study.targets))).items():
        counts[name]["heldout"] = heldout
    ray.get(ray.remote(_index_targets).remote(folder, study, scored))
    return counts


def _bytes(files: dict[str, list[SourceFile]]) -> float:
    """Return the size of a target's files; infinity for those of a hub."""
    return sum(size_of(file.uri) for of_split in files.values() for file in of_split)


def _encode_targets(
    folder: Folder,
    targets: dict[str, Target],
    files: dict[str, dict[str, list[SourceFile]]],
    model: Model,
    data: Data,
) -> dict[str, dict[str, SplitCount]]:
    counts: dict[str, dict[str, SplitCount]] = {}
    for name, target in targets.items():
        counts[name] = {}
        for split, (examples, rejected) in target_tables(name, target, files[name], model, data).items():
            (folder / name).write_table(f"{split}.parquet", examples)
            (folder / name).write_table(f"{split}.rejected.parquet", rejected)
            counts[name][split] = SplitCount(rows=len(examples), rejected=reasons(rejected))
    return counts


def target_tables(
    name: str, target: Target, files: dict[str, list[SourceFile]], model: Model, data: Data
) -> dict[str, tuple[pa.Table, pa.Table]]:
    """Return a target's rows and its rejected rows, of schema EXAMPLES and REJECTED, by split.

    Raises:
        InputError: a split has no usable row, or the tokenizer cannot tell answers from prompts.
    """
    from instsel.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    check_tokenizer(tokenizer)
    known_ids: set[str] = set()
    tables: dict[str, tuple[pa.Table, pa.Table]] = {}
    for split, limit in (("validation", target.max_validation), ("heldout", target.max_heldout)):
        if split not in files:
            continue
        kept, rejected = [EXAMPLES.empty_table()], [REJECTED.empty_table()]
        for file in files[split]:
            for first, lines in read_chunks(file, data.shard_rows):
                examples, bad = encode_lines(
                    lines,
                    first,
                    file.uri,
                    tokenizer=tokenizer,
                    options=encoding_options(data),
                    layout=file.layout,
                    source=name,
                    task_column=target.subtask or "task",
                )
                kept.append(examples)
                rejected.append(bad)
        examples, all_rejected = pa.concat_tables(kept), pa.concat_tables(rejected)
        is_copy = pa.array(~first_occurrences(numeric_ids(examples["id"])))
        all_rejected = pa.concat_tables([all_rejected, reject(examples.filter(is_copy), DUPLICATE)])
        examples = examples.filter(pc.invert(is_copy))
        is_shown = pa.array([row in known_ids for row in examples["id"].to_pylist()], pa.bool_())
        all_rejected = pa.concat_tables([all_rejected, reject(examples.filter(is_shown), "also a validation row")])
        examples = smallest_ids(examples.filter(pc.invert(is_shown)), limit)
        if not len(examples):
            where = target.validation if split == "validation" else target.heldout
            raise InputError(
                f"targets.{name}.{split}: {where} has no usable row; {why_rejected(reasons(all_rejected))}"
            )
        known_ids |= set(examples["id"].to_pylist())
        tables[split] = examples, all_rejected
    return tables


def _reject_shown(folder: Folder, targets: list[str]) -> dict[str, SplitCount]:
    """Reject held-out rows that are validation rows of another target; return the counts of splits that lost some.

    Raises:
        InputError: no row of a split is left.
    """
    shown: dict[int, list[str]] = {}
    for name in targets:
        for messages in (folder / name).read_table("validation.parquet", ["messages"])["messages"].to_pylist():
            for key in row_keys(messages):
                shown.setdefault(key, []).append(name)
    counts = {}
    for name in (each for each in targets if (folder / each).exists("heldout.parquet")):
        rows = (folder / name).read_table("heldout.parquet")
        keys = [row_keys(messages) for messages in rows["messages"].to_pylist()]
        others = [[target for key in each for target in shown.get(key, []) if target != name] for each in keys]
        if not any(others):
            continue
        rejected = [(folder / name).read_table("heldout.rejected.parquet")]
        for target in dict.fromkeys(each[0] for each in others if each):
            mask = pa.array([each[:1] == [target] for each in others])
            rejected.append(reject(rows.filter(mask), shown_elsewhere(target)))
        left, all_rejected = rows.filter(pa.array([not each for each in others])), pa.concat_tables(rejected)
        counts[name] = SplitCount(rows=len(left), rejected=reasons(all_rejected))
        if not len(left):
            raise InputError(f"targets.{name}.heldout: no usable row is left; {why_rejected(counts[name].rejected)}")
        (folder / name).write_table("heldout.rejected.parquet", all_rejected)
        (folder / name).write_table("heldout.parquet", left)
    return counts


def _index_targets(folder: Folder, study: StudyConfig, scored: Folder | None) -> None:
    """Write the index of the texts of targets and of what is scored, for the encoders to read."""
    rows = []
    for target in study.targets:
        rows_folder = folder / "targets" / target
        splits = [name for name in ("validation.parquet", "heldout.parquet") if rows_folder.exists(name)]
        rows.append([messages for name in splits for messages in rows_folder.read_table(name)["messages"].to_pylist()])
    if scored is not None:
        tests = [(scored / name).read_table("test.parquet", ["messages"]) for name in study.scored]
        rows += [test["messages"].to_pylist() for test in tests]
    for name, array in LeakIndex.of(rows, study.data.leak_words).arrays().items():
        folder.write_table(f"leak_{name}.arrow", pa.table({"value": array}))


def leak_index(folder: Folder, words: int) -> LeakIndex:
    """Read the index of the targets' texts below the stage's folder."""
    names = LeakIndex.of([], words).arrays()
    return LeakIndex.from_arrays(
        words, {name: folder.read_table(f"leak_{name}.arrow")["value"].to_numpy() for name in names}
    )


def why_rejected(rejected: dict[str, int]) -> str:
    """Describe the most frequent reasons for which rows were rejected."""
    if not rejected:
        return "its files hold no rows"
    return "rows were rejected: " + ", ".join(f"{count} x {reason}" for reason, count in list(rejected.items())[:3])
