"""What is wrong with a model, by its files and its configuration alone: no weight is read."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instsel.config.study import Embedding, Lora, Model, StudyConfig
from instsel.data.chat import check_tokenizer, encode, lacks_end_mark
from instsel.data.messages import BadRow, Message
from instsel.errors import InputError, Problem
from instsel.io.model_copies import local_copy
from instsel.io.model_files import ModelKey, is_remote, local_folder, names_behind
from instsel.models.loading import load_tokenizer
from instsel.training.schedule import ADAPTER_CONFIG

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
LFS_POINTER = b"version https://git-lfs"
MOST_NAMED = 5
# One question and one answer, as every row has them.
SMALL_ROW = [Message(role="user", content="What is 2 + 3?"), Message(role="assistant", content="5")]
ROOM = 1 << 20


def model_problems(study: StudyConfig) -> list[Problem]:
    """Look for what would end a study that trains its model: files, template, vocabulary, positions, LoRA's layers.

    A model on the hub is looked at where it is in this machine's cache; the network is not asked. Of one behind a URI
    configuration and tokenizer are copied.
    """
    model = study.model
    try:
        folder = _folder(model.name, model.revision, "model.name")
    except InputError as error:
        return [Problem.of(error, "model.name")]
    if folder is None:
        return [_not_here("model.name", model.name)]
    problems = _weight_problems_of(model.name, folder, "model.name")
    local = model.model_copy(update={"name": str(folder), "revision": None})
    config, of_config = _read_config(local, "model.name")
    if config is None:
        return [*problems, *of_config]
    tokenizer, of_tokenizer = _tokenizer(folder, local)
    network, of_network = _network(local, config)
    problems += [*of_tokenizer, *of_network]
    if network is not None:
        problems += lora_problems(network, study.lora, model.name)
        problems += position_problems(network.config, study.data.max_length, "data.max_length", model.name)
        problems += vocabulary_problems(network, tokenizer) if tokenizer is not None else []
    return problems


def most_positions(name: str) -> int | None:
    """Return the longest row in tokens of a model; None where its configuration is not on this machine, or has none.

    Raises:
        InputError: the model is behind a URI, and cannot be copied.
    """
    folder = _folder(name, None, "model.name")
    config = None if folder is None else _read_config(Model(name=str(folder)), "model.name")[0]
    return None if config is None else _positions(config.get_text_config())


def encoder_problems(embedding: Embedding) -> list[Problem]:
    """Look for what would end the computation of prompt embeddings."""
    try:
        folder = _folder(embedding.encoder, embedding.revision, "embedding.encoder")
    except InputError as error:
        return [Problem.of(error, "embedding.encoder")]
    if folder is None:
        return [_not_here("embedding.encoder", embedding.encoder)]
    problems = _weight_problems_of(embedding.encoder, folder, "embedding.encoder")
    config, of_config = _read_config(Model(name=str(folder)), "embedding.encoder")
    if config is None:
        return [*problems, *of_config]
    return [
        *problems,
        *position_problems(config, embedding.max_length, "embedding.max_length", embedding.encoder),
    ]


def weight_problems(folder: Path, key: str, uri: str | None = None) -> list[Problem]:
    """Look for the weights of a model in its folder: safetensors, all of them, and not only what points at them.

    Args:
        folder: of the model.
        key: of the study file that names it.
        uri: of the model if it is behind one; then `folder` is a copy of its small files.
    """
    names = {path.name for path in folder.iterdir()} if uri is None else names_behind(uri)
    where = uri or folder
    if "config.json" not in names:
        return []  # `model_identity` says so.
    is_sharded = INDEX in names and WEIGHTS not in names
    if is_sharded:
        try:
            parts = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return [Problem(key, f"{where}/{INDEX} is damaged; fetch it again")]
    else:
        parts = {WEIGHTS}
    missing = sorted(parts - names)
    pointers = sorted(name for name in parts & names if _is_pointer(folder / name))
    if pointers:
        return [Problem(key, f"{_some(pointers)} in {where} only point at the weights; run `git lfs pull` there")]
    if not missing:
        return []
    if is_sharded:
        return [Problem(key, f"{where} lacks {_some(missing)}, which {INDEX} names; fetch the files again")]
    if ADAPTER_CONFIG in names:
        return [Problem(key, f"{where} is an adapter; merge it into its base model, and name the merged one")]
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        return [Problem(key, _how_to_convert(where, pickles, key))]
    return [Problem(key, f"{where} has no weights: neither {WEIGHTS} nor {INDEX} is there")]


def lora_problems(network: nn.Module, lora: Lora, name: str) -> list[Problem]:
    """Compare LoRA's names with the layers of a model, as PEFT does: a name is the end of a path.

    Args:
        network: the model; its weights do not matter.
        lora: settings of the study.
        name: of the model, for messages.
    """
    key = "lora.target_modules"
    model: Any = network
    outer = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    layers = list(dict.fromkeys(path.rpartition(".")[2] for path, _ in _linear_layers(network, outer)))
    if not layers:
        return [Problem(key, f"{name} has no linear layers between its embedding and its output, which LoRA needs")]
    if isinstance(lora.target_modules, str):
        return []
    known = f"the linear layers of {name} are {', '.join(layers)}"
    advice = "name some of these, or write all-linear"
    matches = {target: _matching(network, target) for target in lora.target_modules}
    problems = []
    outside = [target for target, modules in matches.items() if any(module in outer for module in modules)]
    if outside:
        what = (
            "is no layer inside the model but its embedding or output"
            if len(outside) == 1
            else ("are no layers inside the model but its embedding and output")
        )
        problems.append(Problem(key, f"{_some(outside)} {what}, of which no gradients can be taken; {known}: {advice}"))
    inside = {target: modules for target, modules in matches.items() if target not in outside}
    for target, modules in inside.items():
        others = {type(module).__name__ for module in modules if not _is_linear(module)}
        if others:
            problems.append(Problem(key, f"{target} is a {min(others)}; {known}: {advice}"))
    unmatched = [target for target, modules in inside.items() if not modules]
    if unmatched:
        matched = [target for target, modules in inside.items() if modules]
        rest = f"only {_some(matched)} would get matrices" if matched else "nothing would be trained"
        default = "" if "target_modules" in lora.model_fields_set else "the default "
        verb = "matches" if len(unmatched) == 1 else "match"
        problems.append(
            Problem(key, f"{default}{_some(unmatched)} {verb} no layer of the model, {rest}; {known}: {advice}")
        )
    return problems


def position_problems(config: Any, max_length: int, key: str, name: str) -> list[Problem]:
    """Compare the longest row with the positions that a model has; where its configuration names none, all are fine.

    Args:
        config: of the model.
        max_length: longest row in tokens.
        key: of the study file that has this length.
        name: of the model, for messages.
    """
    positions = _positions(config.get_text_config())
    if positions is None or max_length <= positions:
        return []
    return [Problem(key, f"rows of {max_length} tokens are longer than the {positions} positions of {name}; lower it")]


def vocabulary_problems(network: nn.Module, tokenizer: Any) -> list[Problem]:
    """Compare the ids of a tokenizer with the rows of a model's embedding.

    A token for padding may lie beyond: batches are padded by another one.
    """
    model: Any = network
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    beyond.pop(tokenizer.pad_token, None)
    if not beyond:
        return []
    first = sorted(beyond, key=lambda token: beyond[token])
    shown = _some([f"{token!r} ({beyond[token]})" for token in first])
    return [
        Problem(
            "model.name",
            f"the tokenizer has tokens beyond the {rows} that the model has embeddings of: {shown}; use the tokenizer "
            "that belongs to the model, or give it more rows by resize_token_embeddings and save it",
        )
    ]


def _tokenizer(folder: Path, model: Model) -> tuple[Any, list[Problem]]:
    """Load the tokenizer, and render a small conversation."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return None, [Problem("model.name", f"{model.name} has no tokenizer; save it in the model's folder")]
    try:
        tokenizer = load_tokenizer(model)
        check_tokenizer(tokenizer)
        encode(tokenizer, SMALL_ROW, ROOM)
    except InputError as error:
        return None, [Problem.of(error, "model.chat_template")]
    except BadRow as error:
        return tokenizer, [
            Problem(
                "model.chat_template", f"a question with an answer cannot be rendered: {error}; correct the template"
            )
        ]
    except Exception as error:
        # Files of a tokenizer are anybody's, and its code may be too.
        return None, [Problem("model.name", f"no tokenizer can be loaded from {model.name}: {_first_line(error)}")]
    return tokenizer, _end_problems(tokenizer)


def _end_problems(tokenizer: Any) -> list[Problem]:
    """Tell what becomes of rows whose template has no token that ends an answer."""
    if not lacks_end_mark(tokenizer):
        return []
    end = tokenizer.eos_token
    what = (
        f"rows that end with an answer get the tokenizer's end of text, {end}, as they end without a token otherwise"
        if end
        else "no token ends the last answer of a row, and the tokenizer has no end of text: a model that is trained so "
        "does not learn to stop"
    )
    return [Problem("model.chat_template", what, is_fatal=False)]


def _read_config(model: Model, key: str) -> tuple[Any, list[Problem]]:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model.name, trust_remote_code=model.trust_remote_code), []
    except ImportError as error:
        return None, [_not_built(key, model.name, error, is_fatal=False)]
    except Exception as error:
        # Configurations are anybody's, and transformers raises KeyError and AttributeError about them.
        return None, [_not_built(key, model.name, error)]


def _network(model: Model, config: Any) -> tuple[Any, list[Problem]]:
    """Build a model on the meta device, which takes neither memory nor weights."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code), []
    except ImportError as error:
        # Where the model is computed the package may be there.
        return None, [_not_built("model.name", model.name, error, is_fatal=False)]
    except Exception as error:
        return None, [_not_built("model.name", model.name, error)]


def _not_built(key: str, name: str, error: Exception, *, is_fatal: bool = True) -> Problem:
    return Problem(key, f"{name} cannot be built from its configuration: {_first_line(error)}", is_fatal)


def _first_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _folder(name: str, revision: str | None, key: ModelKey) -> Path | None:
    """Return the folder of a model, which for a hub id is that of the cache; None where it is not on this machine."""
    if is_remote(name):
        return local_copy(name, revision, key, weights=False)
    folder = local_folder(name)
    if folder.is_dir() or not HUB_ID.fullmatch(name):
        return folder if folder.is_dir() else None
    from huggingface_hub import snapshot_download

    with suppress(OSError, ValueError):
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if (cached / "config.json").exists():
            return cached
    return None


def _weight_problems_of(name: str, folder: Path, key: ModelKey) -> list[Problem]:
    """Look for weights; a download from the hub is complete or is made so when it is loaded."""
    if is_remote(name):
        return weight_problems(folder, key, name)
    return weight_problems(folder, key) if local_folder(name).is_dir() else []


def _not_here(key: str, name: str) -> Problem:
    if HUB_ID.fullmatch(name):
        return Problem(key, f"{name} is not on this machine yet; it is looked at once it is fetched", is_fatal=False)
    return Problem(key, f"folder {name} does not exist; correct the path")


def _how_to_convert(folder: Path | str, pickles: list[str], key: str) -> str:
    what = f"{folder} has its weights in {_some(pickles)} alone, a pickle, which can run code and is not read; "
    if isinstance(folder, str):
        return f"{what}write them as safetensors by save_pretrained, if you trust the file, and put those there"
    command = (
        f"from transformers import {'AutoModelForCausalLM' if key == 'model.name' else 'AutoModel'} as M; "
        f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}')"
    )
    return f'{what}write them as safetensors once, if you trust the file: python -c "{command}"'


def _is_pointer(path: Path) -> bool:
    # Of a model behind a URI, weights that are no pointers are not copied for this look.
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _linear_layers(network: nn.Module, outer: list[nn.Module]) -> list[tuple[str, nn.Module]]:
    return [(path, module) for path, module in network.named_modules() if _is_linear(module) and module not in outer]


def _matching(network: nn.Module, target: str) -> list[nn.Module]:
    return [module for path, module in network.named_modules() if path == target or path.endswith(f".{target}")]


def _positions(config: Any) -> int | None:
    """Return the most positions of a model by its configuration, those that scaled rotary embeddings reach included."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for part in (rotary, *(value for value in rotary.values() if isinstance(value, Mapping))):
        original, factor = part.get("original_max_position_embeddings"), part.get("factor")
        if isinstance(original, int) and isinstance(factor, int | float):
            positions = max(positions, int(original * factor))
    return positions


def _some(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
