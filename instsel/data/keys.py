"""Keys that rows and turns of people's files have, and what each means here.

A key that stands in none of these tables is counted, and kept beside the row (`Row.extra`).
"""

from types import MappingProxyType

TURN_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "items")
"""Keys of a row that hold a list of turns, the likeliest first."""

PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("question", "response"),
    ("question", "answer"),
    ("question", "solution"),
    ("query", "response"),
    ("query", "answer"),
    ("inputs", "targets"),
    ("problem", "solution"),
    ("problem", "answer"),
    ("input", "output"),
    ("input", "target"),
    ("input", "response"),
)
"""Keys of a prompt and its answer; the first pair counts of which a row has both."""

PROMPTS = tuple(dict.fromkeys(prompt for prompt, _ in PAIRS))
CONTEXTS = ("input", "context")
"""Keys of a text that follows an instruction, in the order in which they are looked for."""

WITH_CONTEXT = ("instruction", "prompt", "question", "query")
"""Keys of a prompt that such a text belongs to."""

SYSTEMS = ("system", "system_prompt")
TOOLS = ("tools", "functions")
HISTORY = "history"

ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text", "message", "parts")
"""Keys of a turn: who says it, and what."""

TURN_PAIRS = (
    ("input", "output"),
    ("human", "assistant"),
    ("user", "assistant"),
    ("question", "answer"),
    ("prompt", "response"),
)
"""Keys of what the user and the assistant say, where both stand in one object of a list of turns."""

ROLES = MappingProxyType(
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "human": "user",
        "prompter": "user",
        "assistant": "assistant",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "bing": "assistant",
        "bot": "assistant",
        "chatbot": "assistant",
        "model": "assistant",
        "ai": "assistant",
        "tool": "tool",
        "function": "tool",
        "observation": "tool",
        "tool_response": "tool",
        "tool_result": "tool",
        "tool_output": "tool",
        "function_response": "tool",
        "function_result": "tool",
        "ipython": "tool",
        "environment": "tool",
        "function_call": "call",
        "function_calls": "call",
        "tool_call": "call",
        "tool_calls": "call",
    }
)
"""Names of roles in lower case, `_` for a dash -> role; `call` is a turn of the assistant with a call as JSON."""

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of what was thought before an answer, in a turn or, of a prompt and its answer, in the row."""

LOSS_MARKS = ("weight", "loss", "train", "training", "trainable", "loss_weight", "loss_scale")
"""Keys of a turn that say whether it is trained on: false or 0 if not, true or 1 if so."""

MASKS = ("masked", "mask")
"""Keys of a turn that say the opposite: true or 1 if it is not trained on."""

PARTIAL_MARKS = ("train_detail",)
"""Keys of a turn that mark parts of an answer, which are not honoured: a row that has one is rejected."""

CALLS = ("tool_calls", "function_call")
ARGUMENTS = ("arguments", "parameters", "args")
"""Keys of a call's arguments; the first is what templates read."""

SEEN = (*CALLS, "tool_call_id", "name", *REASONING)
"""Keys of a turn, beside role and content, that chat templates write."""

MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Keys of what a model of text cannot see; a row that has one is rejected."""

PREFERENCE = ("chosen", "rejected")
UNWANTED = ("label", "kto_tag")
"""Keys whose value `false` says that an answer is unwanted, as rows for KTO have it."""

READ_KEYS = ("id", "answer", *PREFERENCE, *UNWANTED)
"""Keys of a row that are read and kept beside it all the same."""
