"""The splits of datasets: what files and keys are called, and which of several is meant."""

import re
from collections.abc import Sequence

from instsel.errors import InputError

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "heldout"), "test"),
}
BETWEEN_WORDS = re.compile(r"[-._ /\d]+")
# As datasets writes files of the hub: data/train_sft-00000-of-00004.parquet.
SHARD = re.compile(r"(?:^|/)data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}")


def split_of(name: str) -> str | None:
    """Return the split that a file's path or a key names, None if it names none.

    The first of these: NAME of data/NAME-00000-of-00001; a word such as `train`, `dev` or `test`, as train, validation
    or test.
    """
    shard = SHARD.search(name)
    if shard is not None:
        return WORDS.get(shard["split"], shard["split"])
    return next((WORDS[word] for word in BETWEEN_WORDS.split(name.lower()) if word in WORDS), None)


def choose_split(names: Sequence[str], split: str | None) -> str:
    """Return which of several splits is meant: the one of that name, or of another word for it, or the only one.

    Raises:
        InputError: there is no such split, or none is named and there are several; the message lists them.
    """
    listed = ", ".join(names)
    if split is None:
        if len(names) == 1:
            return names[0]
        raise InputError(f"it holds the splits {listed}; give the path of one of them, or its name as `split`")
    if split in names:
        return split
    for name in names:
        if WORDS.get(name, name) == WORDS.get(split, split):
            return name
    raise InputError(f"it has no split `{split}`, but {listed}; name one of them with `split`")
