"""Published chat templates with conversations of thirteen kinds: whole answers and their end marks are labelled."""

import importlib.util
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.data.chat import IGNORED, Example, check_tokenizer, encode, encode_answer, encode_batch, lacks_end_mark
from instsel.data.encode import encode_lines
from instsel.data.formats import BadRow
from instsel.data.templates import ChatTemplate, check_template, read_template, template_source, uses_date
from instsel.data.turns import Dialogue, EncodingOptions
from instsel.errors import InputError
from tests.data.template_cases import KINDS, TOOLS, answer, call, result, templates, tokenizer_for, user
from tests.data.template_families import EMPTY, FAMILIES, family_of
from tests.data.template_table import END, START, table

DAY = date(2024, 3, 9)
# Written with another header inside their marks of what is generated: that of the assistant belongs to the prompt.
HEADERS = {
    "gptoss": "<|start|>assistant",
    "muse_glimmer": "<|start|>assistant",
    "deepseek_r1_distill": "<｜Assistant｜>",
    "deepseekv3": "<｜Assistant｜>",
}

# Short forms of templates that trl does not carry.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# These two write the header of the next answer whether they are asked to or not.
FIRST_LLAMA_3 = (
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    "+ m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
COMMAND_A = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>"
    "{% if m.role == 'user' %}<|USER_TOKEN|>{{ m.content }}"
    "{% else %}<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>"
    "{% endfor %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
)
END_OF_TEXT_ONLY = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
)


def labelled(tokenizer: Any, example: Example) -> list[str]:
    """Text of each run of labelled tokens."""
    return _runs(tokenizer, example.input_ids, [label != IGNORED for label in example.labels])


def _runs(tokenizer: Any, ids: list[int], mask: list[bool] | list[int]) -> list[str]:
    runs: list[list[int]] = [[]]
    for token, is_marked in zip(ids, mask, strict=True):
        if is_marked:
            runs[-1].append(token)
        else:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def _runs_of(tokenizer: Any, stored: dict[str, Any]) -> list[str]:
    return _runs(tokenizer, stored["input_ids"], [label != IGNORED for label in stored["labels"]])


def _stripped(runs: list[str], *without: str) -> str:
    """Join runs, without white space and without some parts."""
    text = "".join("".join(runs).split())
    for part in filter(None, without):
        text = text.replace(part, "")
    return text


def _tools(kind: str) -> Any:
    return TOOLS if kind == "tool call" else None


@pytest.fixture(scope="module")
def tokenizer() -> Callable[..., Any]:
    """The small tokenizer of a published template, by its name."""
    cache: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in cache:
            cache[name] = tokenizer_for(templates()[name], name)
        return cache[name]

    return make


def test_the_package_with_the_templates_is_there() -> None:
    assert importlib.util.find_spec("trl") is not None
    assert {name for name in templates() if not name.endswith("_training")} <= set(FAMILIES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", templates())
def test_whole_answers_and_their_end_marks_are_labelled(name: str, kind: str, tokenizer: Callable[..., Any]) -> None:
    used, family = tokenizer(name), family_of(name)
    try:
        example = encode(used, KINDS[kind], None, tools=_tools(kind))
    except BadRow as error:
        assert any(reason in str(error) for reason in family.reasons(kind)), str(error)
        return
    assert not family.reasons(kind)
    assert labelled(used, example) == family.answers(kind)
    assert example.input_ids == used.apply_chat_template(KINDS[kind], tools=_tools(kind))["input_ids"]


@pytest.mark.parametrize("name", [name for name in templates() if name.endswith("_training")])
def test_labels_are_what_variants_for_training_mark(name: str, tokenizer: Callable[..., Any]) -> None:
    """Hugging Face's mask of `{% generation %}` against the template that the variant was made from."""
    used, base = tokenizer(name), name.removesuffix("_training")
    compared = 0
    for kind, turns in KINDS.items():
        try:
            example = encode(used, turns, None, tools=_tools(kind))
        except BadRow:
            continue
        marked = used.apply_chat_template(turns, tools=_tools(kind), return_assistant_tokens_mask=True)
        runs = _runs(used, marked["input_ids"], marked["assistant_masks"])
        # Its own header is the prompt's. An end of the text stands behind the mark that ends the last turn, and
        # DeepSeek closes the tool's output before it answers.
        expected = _stripped(runs, HEADERS.get(base, ""), "<｜tool▁outputs▁end｜>").removesuffix("<|endoftext|>")
        assert _stripped(labelled(used, example), HEADERS.get(base, "")) == expected, kind
        compared += 1
    assert compared or base in ("idefics3", "llava_next", "smolvlm")


_said = st.lists(
    st.sampled_from(
        [
            "word",
            " ",
            "\n",
            "0",
            '"q"',
            "\\n",
            "é",
            "<b>",
            "[x]",
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "user",
        ]
    ),
    min_size=1,
    max_size=6,
).map(lambda parts: "".join([*parts, "."]))
_MARKED = ["gptoss", "glm4moe", "lfm2_v2", "llama3", "nemotron_3_nano", "qwen2_5", "qwen3", "qwen3_6"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(_MARKED), st.lists(st.tuples(_said, _said, st.none() | _said), min_size=1, max_size=3))
def test_labels_are_what_is_marked_whatever_is_said(
    tokenizer: Callable[..., Any], base: str, said: list[tuple[str, str, str | None]]
) -> None:
    turns = [
        turn
        for question, text, thought in said
        for turn in (user(question), answer(text, **({} if thought is None else {"reasoning_content": thought})))
    ]
    used = tokenizer(f"{base}_training")
    try:
        example = encode(used, turns, None)
    except BadRow as error:
        # Of a text with tags of thinking, templates take what is before and inside of them for thoughts.
        assert "</think>" in str(turns), error
        return
    marked = used.apply_chat_template(turns, return_assistant_tokens_mask=True)
    assert example.input_ids == marked["input_ids"]
    runs = _runs(used, marked["input_ids"], marked["assistant_masks"])
    assert _stripped(labelled(used, example), HEADERS.get(base, "")) == _stripped(runs, HEADERS.get(base, ""))


@pytest.mark.parametrize("name", ["idefics3", "smolvlm", "llava_next", "qwen2_5_vl"])
def test_content_in_parts_is_labelled_too(name: str, tokenizer: Callable[..., Any]) -> None:
    used = tokenizer(name)
    turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in KINDS["two answers"]]
    end = {"llava_next": "</s>", "qwen2_5_vl": "<|im_end|>"}.get(name, "<end_of_utterance>")
    texts = [text.strip() for text in labelled(used, encode(used, turns, None))]
    assert texts == [f"It has eight.{end}", f"A beetle has six.{end}"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (FIRST_LLAMA_3, ["It has eight.<|eot_id|>", "A beetle has six.<|eot_id|>"]),
        (
            COMMAND_A,
            [
                f"<|START_RESPONSE|>{text}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
                for text in ("It has eight.", "A beetle has six.")
            ],
        ),
        (END_OF_TEXT_ONLY, ["It has eight.", "A beetle has six.</s>"]),
    ],
    ids=["first Llama 3", "Command A", "an end of text at the end alone"],
)
def test_an_answer_ends_where_its_turn_ends(template: str, expected: list[str]) -> None:
    used = tokenizer_for(template)
    assert labelled(used, encode(used, KINDS["two answers"], None)) == expected


def test_a_template_that_wants_a_system_turn_is_learnt_too() -> None:
    used = tokenizer_for(
        "{% if messages[0].role != 'system' %}{{ raise_exception('No system turn.') }}{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert labelled(used, encode(used, KINDS["system"], None)) == ["A mile an hour, at sea.<|end|>"]
    with pytest.raises(BadRow, match="^the chat template rejects the row: No system turn.$"):
        encode(used, KINDS["one answer"], None)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("template", [MISTRAL, VICUNA], ids=["Mistral", "Vicuna"])
def test_a_token_that_reaches_over_the_beginning_of_an_answer_belongs_to_it(template: str, kind: str) -> None:
    used = tokenizer_for(template, kind=kind)
    # Words of these tokenizers have the blank before them.
    turns = [user("Tell me a story."), answer("A metal."), user("And?"), answer("It slept.")]
    example = encode(used, turns, None)
    assert [text.strip() for text in labelled(used, example)] == ["A metal.</s>", "It slept.</s>"]
    words = encode_answer(used, turns, 1000)
    assert [text.strip() for text in labelled(used, words)] == ["It slept."]
    assert example.input_ids == used.apply_chat_template(turns)["input_ids"]


# Two rounds of a tool, with what the assistant thinks: texts of the rows are short, so that templates show.
ROUNDS = [
    {"role": "system", "content": "Be brief."},
    user("Tide?"),
    call(1, reasoning_content="Look it up."),
    result("7", 1),
    answer("Seven.", reasoning_content="I have it."),
    user("Thanks."),
    answer("Welcome.", reasoning_content="Be polite."),
]
HERMES_CALL = '<tool_call>\n{"name": "get_tide", "arguments": {"port": "Brest"}}\n</tool_call><|im_end|>'


@pytest.mark.parametrize(
    ("name", "dropped", "expected"),
    [
        ("qwen2_5", 3, [HERMES_CALL, "Seven.<|im_end|>", "Welcome.<|im_end|>"]),
        # Of thinking only that after the last question is written.
        ("qwen3", 2, [HERMES_CALL, "Seven.<|im_end|>", "<think>\nBe polite.\n</think>\n\nWelcome.<|im_end|>"]),
        (
            "llama3_1",
            3,
            [
                '{"name": "get_tide", "parameters": {"port": "Brest"}}<|eot_id|>',
                "Seven.<|eot_id|>",
                "Welcome.<|eot_id|>",
            ],
        ),
        (
            "gptoss",
            2,
            [
                ' to=functions.get_tide<|channel|>commentary json<|message|>{"port": "Brest"}<|call|>',
                "<|channel|>final<|message|>Seven.<|end|>",
                "<|channel|>analysis<|message|>Be polite.<|end|><|start|>assistant"
                "<|channel|>final<|message|>Welcome.<|return|>",
            ],
        ),
        (
            "glm4moe",
            2,
            [
                "\n<think></think>\n<tool_call>get_tide\n<arg_key>port</arg_key>\n<arg_value>Brest</arg_value>\n"
                "</tool_call>",
                "\n<think></think>\nSeven.",
                "\n<think>Be polite.</think>\nWelcome.",
            ],
        ),
    ],
)
def test_tools_and_reasoning_are_what_hugging_face_renders(
    name: str, dropped: int, expected: list[str], tokenizer: Callable[..., Any]
) -> None:
    used = tokenizer(name)
    example = encode(used, ROUNDS, None, tools=TOOLS)
    assert labelled(used, example) == expected
    assert example.dropped_reasoning == dropped
    assert example.input_ids == used.apply_chat_template(ROUNDS, tools=TOOLS)["input_ids"]


def test_what_a_template_writes_inside_of_a_turn_is_not_the_assistants(tokenizer: Callable[..., Any]) -> None:
    """Gemma 4 writes a call, the tool's result, and then what was said with the call."""
    used = tokenizer("gemma4_v5")
    turns = [user("Tide?"), call(content="Let me see."), result("7"), answer("Seven.")]
    assert labelled(used, encode(used, turns, None, tools=TOOLS)) == [
        '<|tool_call>call:get_tide{port:<|"|>Brest<|"|>}<tool_call|><|tool_response>',
        "Let me see.Seven.<turn|>",
    ]


@pytest.mark.parametrize(
    ("name", "turns", "reason"),
    [
        (
            "gptoss",
            [user("Tide?"), call(content="Let me see."), result("7"), answer("7.")],
            "the text of turn 2, assistant",
        ),
        ("lfm2", [user("Tide?"), call(), result("7"), answer("7.")], "a tool call of turn 2, assistant"),
        ("phi3", [user("Tide?"), answer("Wait."), result("7"), answer("7.")], "the text of turn 3, tool"),
        (
            "muse_glimmer",
            [{"role": "system", "content": "Reasoning effort: low."}, user("Tide?"), answer("7.")],
            "the text of turn 1, system",
        ),
        ("qwen3", [user("Why?"), answer("Hm. <think>It is.</think> So.")], "the text of turn 2, assistant"),
    ],
)
def test_a_turn_that_loses_something_is_named(
    name: str, turns: list[dict[str, Any]], reason: str, tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(BadRow) as error:
        encode(tokenizer(name), turns, None, tools=TOOLS)
    assert str(error.value) == f"the chat template drops or changes a turn: {reason}"


@pytest.mark.parametrize("name", ["llama3_1", "qwen3", "glm4moe", "nemotron_3_nano"])
def test_another_form_of_a_text_is_no_loss(name: str, tokenizer: Callable[..., Any]) -> None:
    """Llama 3.1 writes results as JSON, GLM and Qwen other white space around thoughts."""
    turns = [
        user("Tide?\n\nIn Brest."),
        call(),
        result('{"metres": 7, "where": "Brest\\né"}\n'),
        answer("  Seven.\n ", reasoning_content="\n  Look\n\n\tat it. \n"),
    ]
    used = tokenizer(name)
    example = encode(used, turns, None, tools=TOOLS)
    assert "Seven." in labelled(used, example)[-1]
    assert example.input_ids == used.apply_chat_template(turns, tools=TOOLS)["input_ids"]


def _stored(used: Any, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """A row with tools as stage *prepare* stores it."""
    line = json.dumps({"messages": turns, "tools": TOOLS}).encode()
    examples, rejected = encode_lines([line], 1, "rows.jsonl", tokenizer=used, options=EncodingOptions())
    assert not len(rejected), rejected["reason"]
    stored: dict[str, Any] = examples.to_pylist()[0]
    return stored


# Of the others some know no tools, and some want turns of user and assistant by turns.
WITH_TOOLS = [
    name for name, family in FAMILIES.items() if not name.endswith("_training") and not family.reasons("tool call")
]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_what_a_tool_gave_back_as_an_object_is_written_as_json(name: str, tokenizer: Callable[..., Any]) -> None:
    """Qwen3 leaves an object out, others write its keys alone or Python's `{'metres': 7}`."""
    used = tokenizer(name)
    turns = [user("Tide?"), call(), {**result(""), "content": {"metres": 7}}, answer("Seven.")]
    assert '{"metres": 7}' in used.decode(_stored(used, turns)["input_ids"])


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}], ids=["null", "empty", "absent"])
@pytest.mark.parametrize("name", ["deepseekv3", "qwen3"])
def test_a_call_is_written_whatever_stands_for_its_content(
    name: str, content: dict[str, Any], tokenizer: Callable[..., Any]
) -> None:
    """DeepSeek V3 wants a content beside a call, and its arguments as text."""
    called = {key: value for key, value in call().items() if key != "content"} | content
    used = tokenizer(name)
    (first, *_) = _runs_of(used, _stored(used, [user("Tide?"), called, result("7"), answer("7.")]))
    assert '{"port": "Brest"}' in first


def test_a_call_begins_where_its_mark_does_without_a_header() -> None:
    """Mistral has no generation prompt; `[TOOL_CALLS]` belongs to the answer."""
    used = tokenizer_for(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
        "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}"
        "{{ ']' + eos_token }}{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    )
    turns = [user("Tide?"), call(), result("7"), answer("Seven.")]
    assert [text.strip() for text in labelled(used, encode(used, turns, None))] == [
        '[TOOL_CALLS] [{"name": "get_tide", "arguments": {"port": "Brest"}}]</s>',
        "Seven.</s>",
    ]


@pytest.mark.parametrize("said", ["So.", "\n So. ", "<think>\nHm.\n</think>\n\nSo."])
@pytest.mark.parametrize("written", ["<|im_start|>{{ m.role }}\n", "<|im_start|>{{ m.role | upper }}: "])
@pytest.mark.parametrize("behind", ["\n", ""])
def test_a_template_without_a_generation_prompt_is_followed(said: str, written: str, behind: str) -> None:
    source = (
        "{% for m in messages %}" + written + "{{ m.content }}<|im_end|>{{ '" + repr(behind)[1:-1] + "' }}{% endfor %}"
    )
    used = tokenizer_for(source)
    assert labelled(used, encode(used, [user("Why?"), answer(said)], None)) == [f"{said}<|im_end|>"]


def test_tools_that_a_template_leaves_out_are_a_reason(tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(BadRow, match="^the chat template leaves out tools of the row$"):
        encode(tokenizer("phi3"), KINDS["one answer"], None, tools=TOOLS)


def test_a_template_that_looks_at_texts_cannot_be_followed() -> None:
    by_length = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.content | length > 20 %} (long){% endif %}\n"
        "{% endfor %}"
    )
    used = tokenizer_for(by_length)
    assert labelled(used, encode(used, [user("Why?"), answer("So.")], None)) == ["So."]
    with pytest.raises(BadRow, match="writes turn 1, user, by what its text is, so answers cannot be marked"):
        encode(used, [user("Why is the sky blue, and not green?"), answer("So.")], None)


# Reasoning, system turns and marks.


@pytest.mark.parametrize(
    ("name", "kind", "mask", "drop"),
    [
        ("qwen3", "reasoning", ["No.<|im_end|>"], [f"{EMPTY}No.<|im_end|>"]),
        ("qwen3", "thought in text", ["It is 144.<|im_end|>"], [f"{EMPTY}It is 144.<|im_end|>"]),
        # What it writes where there is no thought is masked too, and dropped by none.
        ("qwen3", "one answer", ["The Loire.<|im_end|>"], [f"{EMPTY}The Loire.<|im_end|>"]),
        ("qwen2_5", "thought in text", ["It is 144.<|im_end|>"], ["It is 144.<|im_end|>"]),
        (
            "gptoss",
            "reasoning",
            ["<|channel|>final<|message|>No.<|return|>"],
            ["<|channel|>final<|message|>No.<|return|>"],
        ),
        ("glm4moe", "reasoning", ["No."], ["\n<think></think>\nNo."]),
        ("gemma4_v5", "reasoning", ["No.<turn|>"], ["No.<turn|>"]),
    ],
)
def test_reasoning_is_trained_on_masked_or_dropped(
    name: str, kind: str, mask: list[str], drop: list[str], tokenizer: Callable[..., Any]
) -> None:
    used = tokenizer(name)
    options = {mode: EncodingOptions(reasoning=mode) for mode in ("train", "mask", "drop")}  # type: ignore[arg-type]
    trained = encode(used, KINDS[kind], None, options=options["train"])
    masked = encode(used, KINDS[kind], None, options=options["mask"])
    dropped = encode(used, KINDS[kind], None, options=options["drop"])
    assert labelled(used, trained) == family_of(name).answers(kind)
    assert labelled(used, masked) == mask
    assert masked.input_ids == trained.input_ids
    assert labelled(used, dropped) == drop
    assert dropped.dropped_reasoning == 0
    assert "Twelve dozen" not in used.decode(dropped.input_ids)


def test_an_answer_of_reasoning_alone_is_rejected_where_it_is_dropped(tokenizer: Callable[..., Any]) -> None:
    turns = [user("Why?"), answer("<think>I wonder.</think>")]
    with pytest.raises(BadRow, match="^turn 2, assistant, is reasoning alone$"):
        encode(tokenizer("qwen3"), turns, None, options=EncodingOptions(reasoning="drop"))


@pytest.mark.parametrize("tags", [("<Think>", "</Think>"), ("<|begin_of_thought|>", "<|end_of_thought|>")])
def test_thoughts_are_told_by_tags_of_several_kinds(tags: tuple[str, str], tokenizer: Callable[..., Any]) -> None:
    used, turns = tokenizer("qwen2_5"), [user("Why?"), answer(f"{tags[0]}Hm.{tags[1]}\n\nSo.")]
    for mode in ("mask", "drop"):
        options = EncodingOptions(reasoning=mode)  # type: ignore[arg-type]
        assert labelled(used, encode(used, turns, None, options=options)) == ["So.<|im_end|>"]


@pytest.mark.parametrize("mode", ["mask", "drop"])
def test_a_thought_without_an_end_cannot_be_left_out(mode: Any, tokenizer: Callable[..., Any]) -> None:
    turns = [user("Why?"), answer("<think>\nI wonder. So")]
    with pytest.raises(BadRow, match="^turn 2, assistant, is a thought without an end$"):
        encode(tokenizer("qwen2_5"), turns, None, options=EncodingOptions(reasoning=mode))
    assert encode(tokenizer("qwen2_5"), turns, None).answer_tokens


def test_system_turns_are_kept_merged_or_dropped(tokenizer: Callable[..., Any]) -> None:
    gemma, turns = tokenizer("gemma"), KINDS["system"]
    with pytest.raises(BadRow, match="System role not supported"):
        encode(gemma, turns, None)
    merged = encode(gemma, turns, None, options=EncodingOptions(system="first_user"))
    assert "<start_of_turn>user\nAnswer as a sailor.\n\nWhat is a knot?<end_of_turn>" in gemma.decode(merged.input_ids)
    dropped = encode(gemma, turns, None, options=EncodingOptions(system="drop"))
    assert "<start_of_turn>user\nWhat is a knot?<end_of_turn>" in gemma.decode(dropped.input_ids)
    for example in (merged, dropped):
        assert labelled(gemma, example) == ["A mile an hour, at sea.<end_of_turn>"]
    with pytest.raises(BadRow, match="no user turn after a system turn"):
        encode(gemma, turns[:1] + turns[2:], None, options=EncodingOptions(system="first_user"))


ANSWERS = ["Once.", "Twice.", "Thrice."]
THREE = [turn for text in ANSWERS for turn in (user("And?"), answer(text))]


@pytest.mark.parametrize(
    ("train_on", "marks", "expected"),
    [
        ("all", None, [0, 1, 2]),
        ("all", [False, True, None], [1, 2]),
        ("last", None, [2]),
        ("last", [True, True, None], [2]),
        ("marked", [None, True, None], [1]),
        ("marked", [True, False, True], [0, 2]),
        ("all", [False, False, False], []),
        ("last", [None, None, False], []),
        ("marked", None, []),
        ("marked", [None, None, None], []),
    ],
)
def test_answers_are_trained_on_by_their_marks(
    train_on: Any, marks: list[bool | None] | None, expected: list[int], tokenizer: Callable[..., Any]
) -> None:
    trained = None if marks is None else [mark for answer_mark in marks for mark in (None, answer_mark)]
    used, options = tokenizer("qwen2_5"), EncodingOptions(train_on=train_on)
    if not expected:
        with pytest.raises(BadRow, match="^no assistant turn is marked to be trained on$"):
            encode(used, THREE, None, trained=trained, options=options)
        return
    example = encode(used, THREE, None, trained=trained, options=options)
    assert labelled(used, example) == [f"{ANSWERS[index]}<|im_end|>" for index in expected]
    assert example.input_ids == used.apply_chat_template(THREE)["input_ids"]


def test_marks_follow_their_turns_when_system_turns_go(tokenizer: Callable[..., Any]) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *THREE]
    marks = [None, None, False, None, True, None, None]
    used = tokenizer("gemma")
    example = encode(used, turns, None, trained=marks, options=EncodingOptions(system="first_user"))
    assert labelled(used, example) == ["Twice.<end_of_turn>", "Thrice.<end_of_turn>"]


# The date, and the end of the text.


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("llama3_2", "Today Date: 09 Mar 2024\n"),
        ("gptoss", "Current date: 2024-03-09\n"),
        ("muse_glimmer", "2024-03-09."),
    ],
)
def test_fault_10_the_date_is_the_studys(name: str, written: str, tokenizer: Callable[..., Any]) -> None:
    used = tokenizer(name)
    assert uses_date(template_source(used))
    example = encode(used, KINDS["one answer"], None, options=EncodingOptions(today=DAY))
    assert written in used.decode(example.input_ids)
    today = encode(used, KINDS["one answer"], None, options=EncodingOptions(today=date.today()))  # noqa: DTZ011
    assert today.input_ids == used.apply_chat_template(KINDS["one answer"])["input_ids"]
    assert labelled(used, example) == labelled(used, today)


@pytest.mark.parametrize("written", ["%d %b %Y", "%-d %B %Y", "%A, %Y-%m-%d", "%y%j", "100 %"])
def test_a_date_is_written_in_every_form(written: str) -> None:
    source = "{% for m in messages %}{{ strftime_now(" + repr(written) + ") }}: {{ m.content }}\n{% endfor %}"
    used = tokenizer_for(source)
    (text,) = ChatTemplate(used, source, DAY).render([[user("Why?")]])
    assert text == f"{DAY.strftime(written)}: Why?\n"


def test_only_templates_that_write_the_date_are_said_to() -> None:
    dated = {name for name, source in templates().items() if uses_date(source)}
    assert dated == {"gptoss", "gptoss_training", "llama3_2", "muse_glimmer", "muse_glimmer_training"}


def test_fault_11_templates_without_an_end_mark_are_known(tokenizer: Callable[..., Any]) -> None:
    assert {name for name in templates() if lacks_end_mark(tokenizer(name))} == {"glm4moe"}


def test_fault_11_an_end_of_text_is_appended_where_there_is_none(tokenizer: Callable[..., Any]) -> None:
    glm, options = tokenizer("glm4moe"), EncodingOptions(append_end=True)
    turns = KINDS["two answers"]
    plain, ended = encode(glm, turns, None), encode(glm, turns, None, options=options)
    assert ended.input_ids == [*plain.input_ids, glm.eos_token_id]
    assert ended.labels == [*plain.labels, glm.eos_token_id]
    # Not behind a question, not behind an answer that is not trained on, and not where it would be too long.
    assert encode(glm, KINDS["question at the end"], None, options=options).labels[-1] == IGNORED
    marked = encode(glm, turns, None, options=options, trained=[None, True, None, False])
    assert encode(glm, [*turns[:3], {**turns[3], "weight": 0}], None, options=options) == marked
    assert marked.input_ids == plain.input_ids
    cut = encode(glm, turns, len(plain.input_ids), options=options)
    assert (cut.input_ids, cut.labels, cut.truncated) == (plain.input_ids, plain.labels, True)
    # And not where the template writes its own.
    qwen = tokenizer("qwen3")
    assert encode(qwen, turns, None, options=options) == encode(qwen, turns, None)


# Batches.


def test_a_batch_is_its_rows_one_by_one(tokenizer: Callable[..., Any]) -> None:
    for name in ("qwen3", "gemma", "gptoss", "llama3_1", "smolvlm"):
        used = tokenizer(name)
        rows = [Dialogue(turns, _tools(kind)) for kind, turns in KINDS.items()] * 5
        options = EncodingOptions(max_length=200)
        for row, example in zip(rows, encode_batch(used, rows, options), strict=True):
            if isinstance(example, Example):
                assert example == encode(used, row.messages, 200, tools=row.tools)
            else:
                with pytest.raises(BadRow) as error:
                    encode(used, row.messages, 200, tools=row.tools)
                assert str(error.value) == str(example)
    assert encode_batch(used, [], options) == []


def test_fault_19_a_conversation_is_rendered_twice_whatever_its_turns(
    tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = tokenizer("qwen3")
    encode(used, KINDS["two answers"], None)
    rendered: list[int] = []
    apply = type(used).apply_chat_template

    def count(self: Any, conversations: Any, **options: Any) -> Any:
        rendered.extend(len(turns) for turns in conversations)
        return apply(self, conversations, **options)

    monkeypatch.setattr(type(used), "apply_chat_template", count)
    turns = [turn for number in range(150) for turn in (user(f"What is {number}?"), answer(f"It is {number}."))]
    assert len(labelled(used, encode(used, turns, None))) == 150
    # And once if it has the form of another row.
    encode(used, [{**turn, "content": turn["content"].upper()} for turn in turns], None)
    assert rendered == [300, 300, 300]


def test_the_signs_are_others_where_a_text_has_them(tokenizer: Callable[..., Any]) -> None:
    used = tokenizer("qwen2_5")
    turns = [user("Q0XZJ0Q Q0XZJ1Q"), answer("Q0XZJ1Q and Q1XZJ0Q, Q0XZJ")]
    for extra in ({}, {"name": "Q0XZJ0Q"}):
        example = encode(used, [{**turn, **extra} for turn in turns], None)
        assert labelled(used, example) == ["Q0XZJ1Q and Q1XZJ0Q, Q0XZJ<|im_end|>"]


# Files of templates, and templates that never end.

QWEN = templates()["qwen2_5"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (QWEN, QWEN),
        ({"chat_template": QWEN, "eos_token": "<|im_end|>"}, QWEN),
        ([{"name": "default", "template": QWEN}], QWEN),
        ({"chat_template": [{"name": "rag", "template": QWEN}]}, QWEN),
        (
            {"chat_template": [{"name": "default", "template": QWEN}, {"name": "tool_use", "template": "t"}]},
            {"default": QWEN, "tool_use": "t"},
        ),
    ],
    ids=["Jinja", "tokenizer_config.json", "a list", "a list of one", "several with a default"],
)
def test_a_template_is_read_from_jinja_or_json(content: Any, expected: Any, write: Callable[[Any], Path]) -> None:
    template = read_template(write(content))
    assert template == expected


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a file of a template: text as it is, bytes, or JSON."""
    import json

    def write(content: Any) -> Path:
        path = tmp_path / "template.jinja"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"eos_token": "</s>"}, "is JSON without a chat template"),
        ({"chat_template": None}, "is JSON without a chat template"),
        ([{"name": "rag"}], "is JSON without a chat template"),
        ("[]", "is JSON without a chat template"),
        ("17", "is JSON without a chat template"),
        (
            {"chat_template": [{"name": "rag", "template": "r"}, {"name": "tool_use", "template": "t"}]},
            r"has several templates \(rag, tool_use\) and none is called default",
        ),
        (b"\xff\xfe{", "could not be read as text"),
    ],
)
def test_a_file_without_a_template_is_refused(content: Any, reason: str, write: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError, match=rf"^model\.chat_template: .*template\.jinja {reason}"):
        read_template(write(content))


def test_a_folder_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model\.chat_template: .* is a folder; name a file in it, such as"):
        read_template(tmp_path)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}\n{{ m.content }", "it has an error in line 2: unexpected '}'"),
        (
            "{% for m in messages %}{{ m.content | shout }}{% endfor %}",
            "it has an error in line 1: No filter named 'shout'.",
        ),
        ("<html>Not found</html>", "it does not read `messages`, so it is no chat template"),
        ("", "it does not read `messages`, so it is no chat template"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages }}",
            "it takes more than 10 s to write one question",
        ),
        (
            "{% set ns = namespace(s='messages') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "it takes more than 1 GiB to write one question",
        ),
        (
            "{% for m in messages %}{% for i in range(99999) %}It never ends. {% endfor %}{% endfor %}",
            "it writes 1,499,985 characters for one question",
        ),
    ],
    ids=["syntax", "filter", "HTML", "empty", "endless", "explodes", "writes much"],
)
def test_a_template_that_cannot_be_used_is_known_at_once(
    template: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = tokenizer_for(QWEN)
    used.chat_template = template
    if "10 s" in problem:
        monkeypatch.setattr("instsel.data.templates.SECONDS", 1)
        problem = problem.replace("10 s", "1 s")
    assert check_template(used) == problem
    if template:
        with pytest.raises(InputError, match="^the tokenizer's chat template: "):
            check_tokenizer(used)


def test_a_template_of_several_is_named_that_cannot_be_used() -> None:
    used = tokenizer_for(QWEN)
    used.chat_template = {"default": QWEN, "rag": "{{ messages }"}
    assert check_template(used) == "its template rag has an error in line 1: unexpected '}'"
    used.chat_template = {"rag": QWEN, "tool_use": QWEN}
    with pytest.raises(InputError, match=r"several chat templates \(rag, tool_use\) and none is called default"):
        check_tokenizer(used)


def test_a_template_that_rejects_a_question_may_be_used() -> None:
    used = tokenizer_for("{% if messages | length < 2 %}{{ raise_exception('No answer.') }}{% endif %}")
    assert check_template(used) is None


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for m in messages %}{{ m.content }}{% if 'again' in m.content %}"
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{% endfor %}",
            "the chat template rejects the row: it takes more than 1 s",
        ),
        (
            "{% for m in messages %}{{ m.content }}{% if 'again' in m.content %}{% for a in range(99999) %}"
            "{{ m.content }}{% endfor %}{% endif %}{% endfor %}",
            "the chat template writes 1,100,003 characters for a row of 15",
        ),
        (
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{% for m in messages %}{{ m.content }}"
            "{% if 'again' in m.content %}{{ f(1) }}{% endif %}{% endfor %}",
            "the chat template rejects the row: maximum recursion depth exceeded",
        ),
    ],
    ids=["endless", "writes much", "recursive"],
)
def test_a_row_that_a_template_never_ends_with_is_rejected(
    template: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import instsel.data.templates as module

    monkeypatch.setattr(module, "SECONDS", 1)
    used = tokenizer_for(template)
    rows = [Dialogue([user("Why?"), answer("So.")]), Dialogue([user("Why, again?"), answer("So.")])]
    good, bad = encode_batch(used, rows, EncodingOptions())
    assert isinstance(good, Example)
    assert str(bad).startswith(reason)


def test_the_table_in_the_docs_is_that_of_the_installed_templates() -> None:
    text = Path(__file__).parents[2].joinpath("docs/data.md").read_text(encoding="utf-8")
    assert text[text.index(START) + len(START) : text.index(END)].strip() == table().strip()
