"""Published chat templates, conversations of thirteen kinds, and small tokenizers that know a template's tokens."""

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

Turns = list[dict[str, Any]]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_tide",
            "description": "Look up the tide.",
            "parameters": {
                "type": "object",
                "properties": {"port": {"type": "string", "description": "A port."}},
                "required": ["port"],
            },
        },
    }
]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(number: int = 1, **more: Any) -> dict[str, Any]:
    function = {"name": "get_tide", "arguments": {"port": "Brest"}}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"abcdefgh{number}", "type": "function", "function": function}],
        **more,
    }


def result(content: str, number: int = 1) -> dict[str, Any]:
    return {"role": "tool", "content": content, "name": "get_tide", "tool_call_id": f"abcdefgh{number}"}


KINDS: dict[str, Turns] = {
    "one answer": [user("Which is the longest river of France?"), answer("The Loire.")],
    "two answers": [
        user("How many legs has a spider?"),
        answer("It has eight."),
        user("And a beetle?"),
        answer("A beetle has six."),
    ],
    "system": [
        {"role": "system", "content": "Answer as a sailor."},
        user("What is a knot?"),
        answer("A mile an hour, at sea."),
    ],
    "empty system": [{"role": "system", "content": ""}, user("What is a fathom?"), answer("Six feet.")],
    "answer first": [answer("Welcome aboard!"), user("Who is the captain?"), answer("I am.")],
    "two questions": [user("Good morning."), user("What is port?"), answer("The left side.")],
    "tool result": [
        user("How high is the tide in Brest?"),
        answer("One moment."),
        {"role": "tool", "content": '{"metres": 6.5}'},
        answer("Six and a half metres."),
    ],
    "thought in text": [
        user("What is 12 * 12?"),
        answer("<think>\nTwelve dozen.\n</think>\n\nIt is 144."),
    ],
    "thoughts in two texts": [
        user("What is 11 * 11?"),
        answer("<think>\nTen and one, squared.\n</think>\n\nIt is 121."),
        user("And 13 * 13?"),
        answer("<think>\nTen and three, squared.\n</think>\n\nIt is 169."),
    ],
    "reasoning": [
        user("Is 91 prime?"),
        answer("No.", reasoning_content="Seven times thirteen is ninety-one."),
    ],
    "two answers in a row": [user("Tell me a story."), answer("Once there was a cat."), answer("It slept.")],
    "tool call": [
        user("How high is the tide in Brest now?"),
        call(),
        result('{"metres": 7}'),
        answer("Seven metres."),
    ],
    "question at the end": [user("What is tin?"), answer("A metal."), user("Thank you!")],
}


@lru_cache(maxsize=1)
def templates() -> dict[str, str]:
    """The chat templates that trl carries, by name; trl itself is not imported."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


# What stands for something else than a token: tags of thinking and of tools, which models write as text.
_PLAIN = re.compile(
    r"think|tool_call>|tool_response>|tool>|tools>|function|parameter|name|atem|arg_|IMPORTANT|required|desc|enum"
)
_MARKS = re.compile(r"<[|｜]?[^<>\s'\"{}()+=-]{1,40}[|｜]?>|\[gMASK\]|\[/?INST\]")
# Of each template the token that ends a text.
_ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "gptoss": "<|return|>",
    "llava": "</s>",
    "phi": "<|endoftext|>",
    "glm": "<|endoftext|>",
}


def marks_of(template: str) -> list[str]:
    """The special tokens that a template writes."""
    return sorted({mark for mark in _MARKS.findall(template) if not _PLAIN.search(mark)})


@lru_cache(maxsize=2)
def _trained(kind: str) -> str:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
    from tokenizers.models import BPE

    texts = [str(turn.get("content")) for turns in KINDS.values() for turn in turns]
    if kind == "byte-level":
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        # As those of Llama 2 and Mistral: a blank is part of the word behind it, and the first word has one too.
        tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = ["▁"]
    special = ["<unk>"] if kind != "byte-level" else []
    if kind != "byte-level":
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def tokenizer_for(template: str, name: str = "", kind: str = "byte-level") -> Any:
    """A small tokenizer that has a template and its special tokens."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    end = next((token for part, token in _ENDS.items() if name.startswith(part)), None)
    marks = marks_of(template)
    end = end or next((mark for mark in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>") if mark in marks), "</s>")
    backend = Tokenizer.from_str(_trained(kind))
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in [*marks, "<s>", end]])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=end, chat_template=template)
