"""Time to encode rows, and to encode long conversations, beside the way of version 0.5.1.

    python -m benchmarks.encoding --tokenizer FOLDER --rows ROWS.jsonl.gz ... [--most 4000] [--out FILE]

Rows have `messages`. Both encode each row once, a thousand the one and then the other, on one core, and seconds of CPU
are compared; 0.5.1 rendered the beginning of a conversation again for each answer (`encode_by_prefixes`). What the
encoder remembers of earlier rows it keeps, as in a study. Examples that differ are counted.
"""

import argparse
import gc
import gzip
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import commonprefix
from pathlib import Path
from typing import Any

from benchmarks import report
from instsel.data.chat import IGNORED, Example, encode_batch
from instsel.data.messages import BadRow
from instsel.data.turns import Dialogue, EncodingOptions
from instsel.report.markdown import markdown_table

MAX_LENGTH = 2048
BATCH = 1_000
TURNS = (2, 10, 50, 250, 1_000)

Messages = list[dict[str, str]]


def main(argv: Sequence[str] | None = None) -> None:
    """Time both ways on rows and on growing conversations, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="folder with a fast tokenizer and its chat template")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="files of rows with `messages`")
    parser.add_argument("--most", type=int, default=4_000, help="rows of a file")
    parser.add_argument("--out", type=Path, help="file of the report; default standard output")
    options = parser.parse_args(argv)
    # One core: the Rust part of a tokenizer would otherwise use all.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    files = {path.name: _read(path, options.most) for path in options.rows}
    # The rows lie here all the time, which a study's do not: the garbage collector need not look at them.
    gc.freeze()
    results = [_compare(tokenizer, name, rows) for name, rows in files.items() if rows]
    results.append(_sum("all of them", results))
    for turns in TURNS:
        conversations = [_conversation(turns, number) for number in range(max(3, 2_000 // turns))]
        results.append(_compare(tokenizer, f"conversations of {turns:,} turns", conversations))
    command = shlex.join(["python", "-m", "benchmarks.encoding", *(sys.argv[1:] if argv is None else argv)])
    facts = report.facts_list({**report.machine("cpu"), "command": f"`{command}`"})
    header = ["rows", "number", "tokens a row", "0.5.1, ms a row", "now, ms a row", "times as fast", "other examples"]
    text = f"# Encoding\n\n{facts}\n{markdown_table(header, [result.line() for result in results])}"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


@dataclass
class Result:
    """What both took for some rows: seconds of CPU, tokens, and examples that differ."""

    name: str
    rows: int = 0
    tokens: int = 0
    other: int = 0
    earlier: float = 0.0
    now: float = 0.0

    def line(self) -> list[str]:
        """Return the cells of the table."""
        return [
            self.name,
            f"{self.rows:,}",
            f"{self.tokens / self.rows:.0f}",
            f"{self.earlier / self.rows * 1e3:.3f}",
            f"{self.now / self.rows * 1e3:.3f}",
            f"{self.earlier / self.now:.1f}",
            f"{self.other:,}",
        ]


def encode_by_prefixes(tokenizer: Any, messages: Messages, max_length: int) -> Example:
    """Encode a row as 0.5.1 did: an answer is what a rendering has beyond that of the turns before it."""
    text = _render(tokenizer, messages)
    special = _special_tokens(tokenizer, tokenizer.get_chat_template())
    if any(token in message["content"] for token in special for message in messages):
        raise BadRow("the text contains a special token of the chat template")
    if any(message["content"].strip() not in text for message in messages):
        raise BadRow("the chat template drops or changes a turn")
    spans = [_span(tokenizer, messages, turn, text) for turn, m in enumerate(messages) if m["role"] == "assistant"]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"][:max_length], encoded["offset_mapping"][:max_length]
    labels = [
        token if any(_inside(offset, span) for span in spans) else IGNORED
        for token, offset in zip(ids, offsets, strict=True)
    ]
    example = Example(ids, labels, len(encoded["input_ids"]) > max_length)
    if example.answer_tokens == 0:
        raise BadRow("no answer token within max_length" if example.truncated else "no answer token")
    return example


@lru_cache(maxsize=4)
def _special_tokens(tokenizer: Any, template: str) -> list[str]:
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = {tokenizer.bos_token, tokenizer.eos_token} - {None}
    return sorted(token for token in special if token in template or token in ends)


def _span(tokenizer: Any, messages: Messages, turn: int, text: str) -> tuple[int, int]:
    through = _render(tokenizer, messages[: turn + 1])
    end = len(through.rstrip())
    if not text.startswith(through[:end]):
        raise BadRow("the chat template rewrites earlier turns, so answers cannot be marked")
    before = _render(tokenizer, messages[:turn], prompt=True) if turn else ""
    if before and through.startswith(before):
        return len(before), end
    content = "1" if messages[turn]["content"].strip().startswith("0") else "0"
    other = _render(tokenizer, [*messages[:turn], {"role": "assistant", "content": content}])
    return len(commonprefix([through, other])), end  # noqa: RUF071


def _render(tokenizer: Any, messages: Messages, *, prompt: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return text


def _inside(token: tuple[int, int], span: tuple[int, int]) -> bool:
    (start, end), (low, high) = token, span
    return low <= start and end <= high and (start < end or low < start)


def _compare(tokenizer: Any, name: str, rows: list[Messages]) -> Result:
    def earlier(batch: list[Messages]) -> list[Example | BadRow]:
        examples: list[Example | BadRow] = []
        for row in batch:
            try:
                examples.append(encode_by_prefixes(tokenizer, row, MAX_LENGTH))
            except BadRow as error:
                examples.append(error)
        return examples

    def now(batch: list[Messages]) -> list[Example | BadRow]:
        return encode_batch(tokenizer, [Dialogue(row) for row in batch], EncodingOptions(max_length=MAX_LENGTH))

    print(f"{name}: {len(rows):,} rows", file=sys.stderr, flush=True)
    result = Result(name)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        began = time.process_time()
        left = earlier(batch)
        between = time.process_time()
        right = now(batch)
        result.now += time.process_time() - between
        result.earlier += between - began
        result.rows += len(batch)
        result.tokens += sum(len(example.input_ids) for example in right if isinstance(example, Example))
        result.other += sum(_key(a) != _key(b) for a, b in zip(left, right, strict=True))
    return result


def _sum(name: str, results: list[Result]) -> Result:
    total = Result(name)
    for result in results:
        for key in ("rows", "tokens", "other", "earlier", "now"):
            setattr(total, key, getattr(total, key) + getattr(result, key))
    return total


def _key(example: Example | BadRow) -> tuple[list[int], list[int]] | None:
    return (example.input_ids, example.labels) if isinstance(example, Example) else None


def _read(path: Path, most: int) -> list[Messages]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        rows = [json.loads(line).get("messages") for line in itertools.islice(lines, most)]
    return [row for row in rows if row]


def _conversation(turns: int, number: int) -> Messages:
    roles = ("user", "assistant")
    texts = [f"This is what I say in turn {turn} of conversation {number}." for turn in range(turns)]
    return [{"role": roles[turn % 2], "content": text} for turn, text in enumerate(texts)]


if __name__ == "__main__":
    main()
