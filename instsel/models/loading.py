"""Load models, adapters, encoders and tokenizers with transformers and PEFT."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from instsel.config.study import Embedding, Lora, Model
from instsel.data.templates import check_template, read_template
from instsel.errors import InputError
from instsel.io.model_copies import local_copy
from instsel.io.model_files import ModelKey, is_remote, local_folder
from instsel.models.dtypes import dtype_of
from instsel.training.checkpoint import load_adapter
from instsel.training.schedule import ADAPTER_CONFIG

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Transformer

PEFT_KEYS = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Source(NamedTuple):
    """What transformers loads a model from: a folder, or an id of the hub with its revision."""

    name: str
    revision: str | None


def source_of(name: str, revision: str | None, key: ModelKey = "model.name", weights: bool = False) -> Source:
    """Return what the name of a model stands for on this machine: one behind a URI is copied here.

    Args:
        name: folder, URI or hub id.
        revision: of a hub model, or the content of one behind a URI.
        key: of the study file that names it.
        weights: whether its weights are needed.

    Raises:
        InputError: as `local_copy`.
        StudyError: as `local_copy`.
    """
    if is_remote(name):
        return Source(str(local_copy(name, revision, key, weights)), None)
    folder = local_folder(name)
    return Source(str(folder), None) if folder.is_dir() else Source(name, revision)


def load_tokenizer(model: Model) -> Any:
    """Load the tokenizer of a model, with the study's chat template if it has one.

    Raises:
        InputError: the model does not exist, or the template file does not hold a template that can be used.
    """
    from transformers import AutoTokenizer

    source = source_of(model.name, model.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.name, revision=source.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: no tokenizer could be loaded from {model.name}: {_first_line(error)}") from error
    if model.chat_template is not None:
        path = Path(model.chat_template).expanduser()
        tokenizer.chat_template = read_template(path)
        problem = check_template(tokenizer)
        if problem is not None:
            raise InputError(f"model.chat_template: {path}: {problem}; correct the template, or name another")
    return tokenizer


def stored_dtype(model: Model) -> str | None:
    """Read the dtype of the stored weights, such as "float16", from a model's configuration; None if it has none.

    Raises:
        InputError: the model does not exist.
    """
    from transformers import AutoConfig

    source = source_of(model.name, model.revision)
    try:
        config = AutoConfig.from_pretrained(
            source.name, revision=source.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: {model.name} could not be loaded: {_first_line(error)}") from error
    dtype = getattr(config, "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def parameter_count(model: Model) -> int:
    """Count the parameters of a model by its configuration, without its weights.

    Raises:
        InputError: the model does not exist.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source = source_of(model.name, model.revision)
    options = {"revision": source.revision, "trust_remote_code": model.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(source.name, **options)
        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: {model.name} could not be loaded: {_first_line(error)}") from error
    return sum(parameter.numel() for parameter in empty.parameters())


def load_base(model: Model, device_map: str | dict[str, int] | None = None) -> Any:
    """Load the base model in the study's dtype, frozen, in evaluation mode.

    Args:
        model: of the study.
        device_map: as in transformers; the CPU if None.

    Raises:
        InputError: the model does not exist, or its attention implementation is not installed.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = source_of(model.name, model.revision, weights=True)
    try:
        base: Any = AutoModelForCausalLM.from_pretrained(
            source.name,
            revision=source.revision,
            dtype=DTYPES[dtype_of(model)],
            attn_implementation=model.attention,
            trust_remote_code=model.trust_remote_code,
            # The older format, pytorch_model.bin, is a pickle.
            use_safetensors=True,
            device_map=device_map,
        )
    except ImportError as error:
        raise InputError(f"model.attention: {model.attention} cannot be used: {_first_line(error)}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: {model.name} could not be loaded: {_first_line(error)}") from error
    base.config.use_cache = False
    if is_remote(model.name):
        # PEFT writes it into adapters: there, the user's name means more than the path of this machine's copy.
        base.name_or_path = model.name
    return base.requires_grad_(False).eval()


def load_on_devices(model: Model) -> nn.Module:
    """Load the base model on this process's GPU, balanced over its GPUs if it has several, or on the CPU.

    Raises:
        InputError: as `load_base`, or the model does not fit on the GPUs.
    """
    gpus = torch.cuda.device_count()
    if gpus == 0:
        on_cpu: nn.Module = load_base(model)
        return on_cpu
    base: nn.Module = load_base(model, "balanced" if gpus > 1 else {"": 0})
    outside = sorted({str(device) for device in getattr(base, "hf_device_map", {}).values()} & {"cpu", "disk"})
    if outside:
        raise InputError(
            f"resources.gpus_per_actor: {model.name} does not fit into the {gpus} GPUs of an actor, part of it would "
            f"be left on {outside[0]}; give an actor more GPUs"
        )
    return base


def load_encoder(embedding: Embedding) -> "Transformer":
    """Load tokenizer and transformer of a text encoder, frozen, in float32, on the GPU if there is one.

    Code that comes with an encoder is never run, and of what its folder says to sentence-transformers nothing is read.

    Raises:
        InputError: the model does not exist, or is not an encoder.
    """
    from sentence_transformers.base.modules import Transformer
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = source_of(embedding.encoder, embedding.revision, "embedding.encoder", weights=True)
    options = {"revision": source.revision, "trust_remote_code": False}
    try:
        if AutoConfig.from_pretrained(source.name, **options).is_encoder_decoder:
            raise InputError(
                f"embedding.encoder: {embedding.encoder} has a decoder too; name a model that only encodes"
            )
        if encoder_file(embedding, ADAPTER_CONFIG) is not None:
            # sentence-transformers would load the base model that the adapter names, from anywhere.
            raise InputError(f"embedding.encoder: {embedding.encoder} is an adapter; merge it into its base model")
        encoder: Transformer = Transformer(
            source.name,
            model_kwargs={**options, "dtype": torch.float32, "use_safetensors": True},
            processor_kwargs={**options},
            config_kwargs={**options},
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
        )
    except (ImportError, OSError, ValueError) as error:
        raise InputError(f"embedding.encoder: {embedding.encoder} could not be loaded: {_first_line(error)}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.to(device).requires_grad_(False).eval()
    return encoder


def encoder_file(embedding: Embedding, name: str) -> Any:
    """Read a JSON file of an encoder's folder, which may be on the hub; None if there is no such file."""
    from transformers.utils.hub import cached_file

    source = source_of(embedding.encoder, embedding.revision, "embedding.encoder")
    path = cached_file(source.name, name, revision=source.revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def attach_lora(base: nn.Module, lora: Lora, seed: int) -> nn.Module:
    """Attach new LoRA matrices, float32, to a base model; the same seed gives the same matrices.

    Raises:
        InputError: the model has no module with the given names.
    """
    from peft import LoraConfig, get_peft_model

    targets: Any = lora.target_modules
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(base, config)
        except ValueError as error:
            raise InputError(f"lora.target_modules: {_first_line(error)}; name modules that the model has") from error


def attach_adapter(base: nn.Module, folder: str | Path) -> nn.Module:
    """Attach a saved LoRA adapter to a base model, its matrices trainable and on the devices of their layers.

    Only the keys of `Lora` are read from the folder's configuration: PEFT's loader imports modules named there and
    accepts pickles.

    Raises:
        InputError: the folder does not contain a LoRA adapter for this model.
    """
    path = Path(folder) / ADAPTER_CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        lora = Lora.model_validate({key: raw[peft_key] for key, peft_key in PEFT_KEYS.items()})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} does not describe a LoRA adapter: {_first_line(error)}") from error
    model = attach_lora(base, lora, seed=0)
    load_adapter(Path(folder), model)
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
