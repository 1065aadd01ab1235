"""The table of published chat templates and the conversations that they keep, in docs/data.md.

    python -m tests.data.template_table

writes it again. Templates that keep the same kinds, and lose the others for the same reasons, are in one line.
"""

import re
from pathlib import Path

from instsel.data.chat import encode_batch, lacks_end_mark
from instsel.data.formats import BadRow
from instsel.data.templates import uses_date
from instsel.data.turns import Dialogue, EncodingOptions
from tests.data.template_cases import KINDS, TOOLS, templates, tokenizer_for

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
START = "<!-- templates: made by `python -m tests.data.template_table` -->"
END = "<!-- /templates -->"
_REJECTS, _LOSES = "the chat template rejects the row: ", "the chat template drops or changes a turn: "
_ROLE = re.compile(r", (?:system|user|assistant|tool)\b")


def table() -> str:
    """Encode a conversation of each kind with each template, and return the Markdown."""
    lines: dict[tuple[str, str], list[str]] = {}
    for name, source in templates().items():
        if name.endswith("_training"):
            continue
        tokenizer = tokenizer_for(source, name)
        rows = [Dialogue(turns, TOOLS if kind == "tool call" else None) for kind, turns in KINDS.items()]
        examples = dict(zip(KINDS, encode_batch(tokenizer, rows, EncodingOptions()), strict=True))
        kept = [kind for kind, example in examples.items() if not isinstance(example, BadRow)]
        reasons: dict[str, list[str]] = {}
        for kind, example in examples.items():
            if isinstance(example, BadRow):
                reasons.setdefault(_short(str(example)), []).append(kind)
        notes = [f"{', '.join(kinds)}: {reason}" for reason, kinds in reasons.items()]
        if any(getattr(example, "dropped_reasoning", 0) for example in examples.values()):
            dropped = [kind for kind, example in examples.items() if getattr(example, "dropped_reasoning", 0)]
            notes.append(f"reasoning is left out of: {', '.join(dropped)}")
        if lacks_end_mark(tokenizer):
            notes.append("no end mark")
        if uses_date(source):
            notes.append("writes the date")
        count = "all" if len(kept) == len(KINDS) else f"{len(kept)} of {len(KINDS)}" if kept else "none"
        lines.setdefault((count, "; ".join(notes).replace("|", "\\|")), []).append(f"`{name}`")
    body = [f"| {', '.join(names)} | {count} | {notes} |" for (count, notes), names in lines.items()]
    kinds = ", ".join(KINDS)
    header = "| templates | kinds kept | why not the others, and what else is to know |\n| --- | --- | --- |\n"
    return f"The thirteen kinds: {kinds}.\n\n{header}" + "\n".join(body) + "\n"


def _short(reason: str) -> str:
    if reason.startswith(_LOSES):
        return f"it loses {_ROLE.sub('', reason.removeprefix(_LOSES))}"
    return f"“{reason.removeprefix(_REJECTS)}”" if reason.startswith(_REJECTS) else reason


def main() -> None:
    """Write the table into the docs."""
    text = DOCS.read_text(encoding="utf-8")
    before, rest = text.split(START)
    DOCS.write_text(f"{before}{START}\n\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
