"""What a sentence-transformers folder says of the way from token vectors to one vector."""

import os
from typing import TYPE_CHECKING

from instsel.config.study import Embedding
from instsel.errors import InputError
from instsel.models.loading import encoder_file

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Pooling

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
_PACKAGE = "sentence_transformers."
_MODES = ("mean", "cls", "lasttoken")


def load_pooling(embedding: Embedding, width: int) -> "Pooling":
    """Load an encoder's pooling: as the study or the encoder's modules say, by the mean if neither does.

    Normalize, which changes no direction, is left out. The modules are checked before any is loaded, because
    sentence-transformers loads whichever of its classes they name, some of them from pickles.

    Args:
        embedding: The study's.
        width: Dimensions of a token vector.

    Raises:
        InputError: The encoder has modules, a pooling or a default prompt that are not computed here.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    mode = _mode_of_modules(embedding) if embedding.pooling == "auto" else embedding.pooling
    pooling: Pooling = Pooling(width, "lasttoken" if mode == "last" else mode)
    return pooling


def _mode_of_modules(embedding: Embedding) -> str:
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = encoder_file(embedding, MODULES)
    if modules is None:
        return "mean"
    names = [module["type"].removeprefix(_PACKAGE) for module in modules]
    kinds = [name.rpartition(".")[2] for name in names]
    foreign = any(not module["type"].startswith(_PACKAGE) for module in modules)
    if foreign or kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"} or modules[0]["path"]:
        raise _refusal(f"is made of {', '.join(names)}, where Transformer, Pooling and Normalize are known")
    prompt = (encoder_file(embedding, SETTINGS) or {}).get("default_prompt_name")
    if prompt is not None:
        raise _refusal(f"puts the prompt {prompt!r} before every text")
    folder = os.path.expanduser(embedding.encoder)
    settings = Pooling.load_config(folder, subfolder=modules[1]["path"], revision=embedding.revision)
    modes = settings.get("pooling_mode", "mean")
    mode: str = modes if isinstance(modes, str) else " and ".join(modes)
    if mode not in _MODES:
        raise _refusal(f"pools by {mode}, where {', '.join(_MODES)} are known")
    return mode


def _refusal(reason: str) -> InputError:
    return InputError(
        f"embedding.encoder: it {reason}; name another encoder, or set embedding.pooling to take this one's "
        "transformer alone"
    )
