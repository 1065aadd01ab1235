"""What each published template should write as an answer, worked out by hand from its text."""

from dataclasses import dataclass, field
from typing import Any

from tests.data.template_cases import KINDS

ALTERNATION = "rejects the row: Conversation roles must alternate"
PARTS = ["drops or changes a turn: the text of turn 1", "no element 0", "has no attribute 'text'"]


@dataclass(frozen=True)
class Family:
    """Templates that write answers alike.

    Attributes:
        end: ends an answer.
        last_end: ends the last turn of a conversation; as `end` if None.
        before: stands before an answer.
        late_before: the same after the last question; as `before` if None.
        lone: `late_before` holds for the last turn alone.
        texts: answers of kinds that are not written by these rules.
        rejected: kinds that the template rejects or loses, and a part of the reason; the reasons of "" hold for all.
    """

    end: str
    last_end: str | None = None
    before: str = ""
    late_before: str | None = None
    lone: bool = False
    texts: dict[str, list[str]] = field(default_factory=dict)
    rejected: dict[str, str | list[str]] = field(default_factory=dict)

    def answers(self, kind: str) -> list[str]:
        """What should be labelled of a kind, each answer with what stands around it."""
        if kind in self.texts:
            return self.texts[kind]
        turns = KINDS[kind]
        question = max(index for index, turn in enumerate(turns) if turn["role"] == "user")
        written = []
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            late = index == len(turns) - 1 if self.lone else index > question
            before = self.late_before if late and self.late_before is not None else self.before
            end = self.last_end if index == len(turns) - 1 and self.last_end is not None else self.end
            written.append(before + turn["content"] + end)
        return written

    def reasons(self, kind: str) -> list[str]:
        """Parts of the reasons for which a kind may be rejected."""
        reasons = self.rejected.get(kind, self.rejected.get("", []))
        return [reasons] if isinstance(reasons, str) else reasons


def _alternating(end: str, **more: Any) -> Family:
    kinds = ["answer first", "two questions", "tool result", "two answers in a row", "tool call"]
    return Family(end, rejected={**dict.fromkeys(kinds, ALTERNATION), **more.pop("rejected", {})}, **more)


def _hermes(end: str, before: str = "") -> list[str]:
    call = '<tool_call>\n{"name": "get_tide", "arguments": {"port": "Brest"}}\n</tool_call>'
    return [call + end, f"{before}Seven metres.{end}"]


def _xml(before: str, behind: str = "") -> list[str]:
    call = "<tool_call>\n<function=get_tide>\n<parameter=port>\nBrest\n</parameter>\n</function>\n</tool_call>"
    return [
        f"{before}{call}{behind}<|im_end|>",
        f"{before.strip(chr(10)) if behind else before}Seven metres.<|im_end|>",
    ]


def _pythonic() -> list[str]:
    return ["<|tool_call_start|>[get_tide(port='Brest')]<|tool_call_end|><|im_end|>", "Seven metres.<|im_end|>"]


NO_CALL = {"tool call": "drops or changes a turn: a tool call of turn 2, assistant"}
NO_TOOL = {"tool result": "drops or changes a turn: the text of turn 3, tool"}
IM = "<|im_end|>"
EMPTY = "<think>\n\n</think>\n\n"
THOUGHTS = [f"<think>\n{text}\n</think>\n\n" for text in ("Ten and one, squared.", "Ten and three, squared.")]
SEVEN = "Seven times thirteen is ninety-one."
QWEN3 = {
    "thought in text": [f"<think>\nTwelve dozen.\n</think>\n\nIt is 144.{IM}"],
    "thoughts in two texts": [f"It is 121.{IM}", f"{THOUGHTS[1]}It is 169.{IM}"],
    "reasoning": [f"<think>\n{SEVEN}\n</think>\n\nNo.{IM}"],
}
# Thinking is written before every answer by the variants for training.
QWEN3_TRAINING = {**QWEN3, "thoughts in two texts": [f"{THOUGHTS[0]}It is 121.{IM}", f"{THOUGHTS[1]}It is 169.{IM}"]}
EOS = "<｜end▁of▁sentence｜>"
DEEPSEEK = {
    "thought in text": [f"\n\nIt is 144.{EOS}"],
    "thoughts in two texts": [f"\n\nIt is 121.{EOS}", f"\n\nIt is 169.{EOS}"],
}
CALL = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_tide\n```json\n"
GEMMA4 = '<|tool_call>call:get_tide{port:<|"|>Brest<|"|>}<tool_call|>'
JOINED = {"two answers in a row": ["Once there was a cat.It slept.<turn|>"]}
THOUGHT_CHANNEL = {"reasoning": [f"<|channel>thought\n{SEVEN}\n<channel|>No.<turn|>"]}
GLM = {
    "thought in text": ["\n<think>Twelve dozen.</think>\nIt is 144.{}"],
    "thoughts in two texts": [
        "\n<think></think>\nIt is 121.{}",
        "\n<think>Ten and three, squared.</think>\nIt is 169.{}",
    ],
    "reasoning": [f"\n<think>{SEVEN}</think>\nNo.{{}}"],
}
GLM_CALL = (
    "\n<think></think>\n<tool_call>get_tide\n<arg_key>port</arg_key>\n<arg_value>Brest</arg_value>\n</tool_call>{}"
)
NEMOTRON = {
    "thought in text": [f"<think>\nTwelve dozen.\n</think>\n\nIt is 144.{IM}"],
    "reasoning": [f"<think>\n{SEVEN}\n</think>\nNo.{IM}"],
    "tool call": _xml("<think></think>\n", "\n"),
}
FINAL = "<|channel|>final<|message|>"
ATEM = (
    ' to=get_tide<|message|><atem:function_calls>\n<atem:invoke name="get_tide">\n'
    '<atem:parameter name="port">Brest</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>'
)
LFM_THINKING = {
    "thoughts in two texts": [f"It is 121.{IM}", f"{THOUGHTS[1]}It is 169.{IM}"],
    "reasoning": [f"<think>{SEVEN}</think>No.{IM}"],
    "tool call": _pythonic(),
}
LLAMA_CALL = {
    "tool call": ['{"name": "get_tide", "parameters": {"port": "Brest"}}<|eot_id|>', "Seven metres.<|eot_id|>"]
}

_QWEN3_5 = Family(IM, late_before=EMPTY, texts={**QWEN3, "tool call": _xml(EMPTY)})
_QWEN3_5_TRAINING = Family(IM, before=EMPTY, texts={**QWEN3_TRAINING, "tool call": _xml(EMPTY)})
_NEMOTRON_NANO = Family(
    IM,
    before="<think></think>",
    texts={
        **NEMOTRON,
        "thoughts in two texts": [f"<think></think>\n\nIt is 121.{IM}", f"{THOUGHTS[1]}It is 169.{IM}"],
    },
)
_NEMOTRON_ULTRA = Family(
    IM, before="<think></think>", texts={**_NEMOTRON_NANO.texts, "reasoning": [f"<think>\n{SEVEN}</think>No.{IM}"]}
)
_PARTS = Family("", rejected={"": PARTS})
_PHI = Family("<|end|>", rejected={**NO_TOOL, **NO_CALL})
_GEMMA4 = Family(
    "<turn|>", texts={"tool call": [f"{GEMMA4}<|tool_response>", "Seven metres.<turn|>"]}, rejected=NO_TOOL
)
_DIFFUSION = Family(
    "<turn|>",
    texts={**JOINED, **THOUGHT_CHANNEL, "tool call": [f"{GEMMA4}<|tool_response>", "Seven metres.<turn|>"]},
    rejected=NO_TOOL,
)
_GPT_OSS = Family(
    "<|end|>",
    last_end="<|return|>",
    before=FINAL,
    texts={
        "reasoning": [
            f"<|channel|>analysis<|message|>{SEVEN}<|end|><|start|>assistant{FINAL}No.<|return|>",
        ],
        "tool call": [
            ' to=functions.get_tide<|channel|>commentary json<|message|>{"port": "Brest"}<|call|>',
            f"{FINAL}Seven metres.<|return|>",
        ],
    },
    rejected={"tool result": "Message has tool role, but there was no previous assistant message with a tool call!"},
)
_MUSE = Family(
    "<|eot|>",
    before=" to=user<|message|>",
    texts={
        "reasoning": [
            f" to=self<|message|>{SEVEN}<|eom|><|start|>assistant to=user<|message|>No.<|eot|>",
        ],
        "tool call": [ATEM, " to=user<|message|>Seven metres.<|eot|>"],
    },
)
_LLAMA3 = Family("<|eot_id|>", rejected=NO_CALL)

FAMILIES: dict[str, Family] = {
    "cohere": _alternating("<|END_OF_TURN_TOKEN|>"),
    "cohere2": _alternating("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "deepseek_r1_distill": Family(EOS, texts=DEEPSEEK, rejected=NO_CALL),
    "deepseek_r1_distill_training": Family(EOS, rejected=NO_CALL),
    # Arguments of a call must be text.
    "deepseekv3": Family(EOS, texts=DEEPSEEK, rejected={"tool call": "can only concatenate str"}),
    "deepseekv3_training": Family(
        EOS,
        texts={
            **DEEPSEEK,
            "tool call": [
                f'{CALL}{{"port": "Brest"}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>{EOS}',
                f"Seven metres.{EOS}",
            ],
        },
    ),
    "diffusion_gemma": _DIFFUSION,
    # Its marks of what is generated leave out the token that asks for the tool.
    "diffusion_gemma_training": Family(
        "<turn|>", texts={**_DIFFUSION.texts, "tool call": [GEMMA4, "Seven metres.<turn|>"]}, rejected=NO_TOOL
    ),
    "gemma": _alternating(
        "<end_of_turn>", rejected=dict.fromkeys(("system", "empty system"), "System role not supported")
    ),
    "gemma3": _alternating("<end_of_turn>"),
    "gemma4": _GEMMA4,
    "gemma4_v2": Family("<turn|>", texts={"tool call": [f"{GEMMA4}<turn|>", "Seven metres.<turn|>"]}),
    "gemma4_v3": _GEMMA4,
    "gemma4_v4": _GEMMA4,
    "gemma4_v5": _DIFFUSION,
    "glm4moe": Family(
        "",
        before="\n<think></think>\n",
        texts={
            **{kind: [text.format("") for text in texts] for kind, texts in GLM.items()},
            "tool call": [GLM_CALL.format(""), "\n<think></think>\nSeven metres."],
        },
    ),
    "glm4moe_training": Family(
        "<|user|>",
        before="\n<think></think>\n",
        texts={
            **{kind: [text.format("<|user|>") for text in texts] for kind, texts in GLM.items()},
            "tool call": [GLM_CALL.format("<|observation|>"), "\n<think></think>\nSeven metres.<|user|>"],
        },
    ),
    "gptoss": _GPT_OSS,
    "idefics3": _PARTS,
    "lfm2": Family(IM, rejected=NO_CALL),
    "lfm2_2_5": Family(IM, texts=LFM_THINKING),
    "lfm2_2_5_v2": Family(IM, texts=LFM_THINKING),
    "lfm2_2_5_vl": Family(IM, texts=LFM_THINKING),
    "lfm2_v2": Family(IM, texts={"tool call": _pythonic()}),
    "llama3": _LLAMA3,
    "llama3_1": Family("<|eot_id|>", texts=LLAMA_CALL),
    "llama3_2": Family("<|eot_id|>", texts=LLAMA_CALL),
    "llava_next": _PARTS,
    "muse_glimmer": _MUSE,
    "nemotron_3_nano": _NEMOTRON_NANO,
    "nemotron_3_super": _NEMOTRON_NANO,
    "nemotron_3_ultra": _NEMOTRON_ULTRA,
    "nemotron_3_5_lightning": _NEMOTRON_ULTRA,
    "phi3": _PHI,
    "phi3_5": _PHI,
    "qwen2_5": Family(IM, texts={"tool call": _hermes(IM)}),
    "qwen2_5_vl": Family(IM, rejected=NO_CALL),
    "qwen3": Family(IM, late_before=EMPTY, lone=True, texts={**QWEN3, "tool call": _hermes(IM, EMPTY)}),
    "qwen3_training": Family(
        IM, before=EMPTY, texts={**QWEN3_TRAINING, "tool call": [EMPTY + text for text in _hermes(IM)]}
    ),
    "qwen3_5_nothink": _QWEN3_5,
    "qwen3_5_nothink_training": _QWEN3_5_TRAINING,
    "qwen3_5_think": _QWEN3_5,
    "qwen3_5_think_training": _QWEN3_5_TRAINING,
    "qwen3_6": _QWEN3_5,
    "qwen3_6_training": _QWEN3_5_TRAINING,
    "qwen3_8": Family(IM, before=EMPTY, texts={"reasoning": QWEN3["reasoning"], "tool call": _xml(EMPTY)}),
    "qwen3_instruct_2507": Family(IM, texts={"tool call": _hermes(IM)}),
    "qwen3_vl": Family(IM, texts={"tool call": _hermes(IM)}),
    "smolvlm": _PARTS,
}


def family_of(name: str) -> Family:
    """The family of a template; variants for training write as those that they come from, where they are not named."""
    return FAMILIES.get(name) or FAMILIES[name.removesuffix("_training")]
