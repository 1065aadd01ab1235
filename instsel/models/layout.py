"""What a sentence-transformers folder says of the way from token vectors to one vector."""

from collections.abc import Callable
from typing import Any, Literal

from instsel.errors import InputError

Pooling = Literal["mean", "cls", "last"]

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
_PACKAGE = "sentence_transformers."
_KNOWN: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def pooling_of(read: Callable[[str], Any]) -> Pooling:
    """How an encoder pools: as its modules say, by the mean if it has none.

    Normalize, which changes no direction, is left out.

    Args:
        read: gives the content of a JSON file of the encoder's folder, by its path there, or None if there is none.

    Raises:
        InputError: the encoder has modules, a pooling or a default prompt that are not computed here.
    """
    modules = read(MODULES)
    if modules is None:
        return "mean"
    names = [module["type"].removeprefix(_PACKAGE) for module in modules]
    kinds = [name.rpartition(".")[2] for name in names]
    foreign = any(not module["type"].startswith(_PACKAGE) for module in modules)
    if foreign or kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"} or modules[0]["path"]:
        raise _refusal(f"is made of {', '.join(names)}, where Transformer, Pooling and Normalize are known")
    prompt = (read(SETTINGS) or {}).get("default_prompt_name")
    if prompt is not None:
        raise _refusal(f"puts the prompt {prompt!r} before every text")
    mode = _mode(read(f"{modules[1]['path']}/config.json") or {})
    if mode not in _KNOWN:
        raise _refusal(f"pools by {mode}, where {', '.join(_KNOWN)} are known")
    return _KNOWN[mode]


def _mode(config: dict[str, Any]) -> str:
    """The mode of a Pooling module, in the words of sentence-transformers; several joined by "and"."""
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
        return modes if isinstance(modes, str) else " and ".join(modes)
    # Written so up to sentence-transformers 5; without any flag it takes the mean.
    return " and ".join(mode for flag, mode in _FLAGS.items() if config.get(flag)) or "mean"


def _refusal(reason: str) -> InputError:
    return InputError(
        f"embedding.encoder: it {reason}; name another encoder, or set embedding.pooling to take this one's "
        "transformer alone"
    )
