"""What is kept of every answer that is scored."""

import hashlib

import pyarrow as pa

ITEMS = pa.schema(
    [
        ("item", pa.string()),
        ("document", pa.int64()),
        ("answer", pa.string()),
        ("right", pa.string()),
        ("correct", pa.float64()),
        ("probability", pa.float64()),
        ("found", pa.bool_()),
    ]
)
"""Results of a task.

- item: digest of the prompt; document: number in the test split.
- answer: the response after the filter, of choices the option that was taken; right: the right answer.
- correct: the task's metric, mostly 0 or 1.
- probability: of the right option among all, by log-probability, for cloze per character, for pmi less that of the
  option alone; null where answers are generated.
- found: false where the filter found no answer in the response.
"""


def prompt_digest(prompt: str) -> str:
    """Return 16 hex digits that stand for a prompt, the same for every run."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]
