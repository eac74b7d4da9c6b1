"""A checkpoint's small files, read and held to each other before anything heavy is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from headimpact.errors import InputError
from headimpact.files import read_json
from headimpact.hub import CONFIG, PROCESSOR
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import family_class, family_name
from headimpact.vlm.packing import PromptAttention

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""How transformers' decoders call the number of their experts."""
_BAD = (OSError, ValueError, TypeError, KeyError, AttributeError, StrictDataclassError)


def read_family(source: str, folder: Path) -> type[Vlm]:
    """The family of a checkpoint, from its config.json alone.

    Raises:
        InputError: it is of none of ``FAMILIES``.
    """
    config = read_json(folder / CONFIG)
    classes = config.get("architectures") if isinstance(config, dict) else None
    return find_family(source, config, classes or [])


def find_family(source: str, config: Any, classes: Sequence[str]) -> type[Vlm]:
    """The family of a configuration (the content of its config.json) and of the names of its model's classes, where
    they are known.

    Raises:
        InputError: it is of none of ``FAMILIES``.
    """
    family = family_class(family_name(source, config))
    if classes and family.model_class.__name__ not in classes:
        raise InputError(
            f"{source} is not supported: it holds a {classes[0]}; of {config['model_type']} models, "
            f"{family.model_class.__name__} is."
        )
    return family


def read_config(source: str, folder: Path) -> Any:
    """The model's configuration.

    Raises:
        InputError: transformers cannot read it.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except _BAD as error:
        raise _unreadable(source, CONFIG, error) from None


def read_tokenizer(source: str, folder: Path) -> Any:
    """The fast tokenizer, which knows the characters of every token.

    Raises:
        InputError: transformers cannot read it, or it is a slow one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise _unreadable(source, "tokenizer", error) from None
    return check_fast(source, tokenizer)


def check_fast(source: str, tokenizer: Any) -> Any:
    """The tokenizer itself.

    Raises:
        InputError: it is a slow one.
    """
    if not tokenizer.is_fast:
        raise InputError(f"{source} has no fast tokenizer (tokenizer.json), which the places of characters come from.")
    return tokenizer


def read_image_processor(source: str, folder: Path, family: type[Vlm]) -> Any:
    """The image processor, in its PIL form everywhere: a machine with torchvision must see the same pixels.

    Raises:
        InputError: transformers cannot read its settings, or they are those of another family.
    """
    try:
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (*_BAD, ImportError) as error:
        raise _unreadable(source, "image processor settings", error) from None
    return pil_image_processor(source, image_processor, family)


def pil_image_processor(source: str, image_processor: Any, family: type[Vlm]) -> Any:
    """The image processor in its PIL form: itself, or one of the same settings where it is torchvision's.

    Raises:
        InputError: it is that of another family.
    """
    if f"{type(image_processor).__name__}Pil" == family.image_processor_class.__name__:
        return family.image_processor_class.from_dict(image_processor.to_dict())
    if type(image_processor) is not family.image_processor_class:
        raise InputError(
            f"{source}: its image processor is a {type(image_processor).__name__}, where the model takes the images "
            f"of a {family.image_processor_class.__name__}."
        )
    return image_processor


def read_template(source: str, folder: Path, tokenizer: Any) -> str | None:
    """The chat template: the processor's own (which places images), else the tokenizer's; None if there is none.

    Raises:
        InputError: there are several, and none is the default one.
    """
    return choose_template(source, _processor_template(folder) or tokenizer.chat_template)


def choose_template(source: str, template: Any) -> str | None:
    """The one chat template, or the default one of several (a dictionary, or a list of names and templates).

    Raises:
        InputError: none of several is the default one.
    """
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        if "default" not in template:
            raise InputError(f"{source} has the chat templates {', '.join(sorted(template))}, none named default.")
        template = template["default"]
    return template


def _processor_template(folder: Path) -> Any:
    """As transformers' processors look for it: chat_template.json, chat_template.jinja, processor_config.json."""
    legacy, plain, processor = folder / "chat_template.json", folder / "chat_template.jinja", folder / PROCESSOR
    if legacy.is_file():
        return read_json(legacy).get("chat_template")
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    return read_json(processor).get("chat_template") if processor.is_file() else None


def check(vlm: Vlm) -> None:
    """Hold config, tokenizer, image processor and chat template to each other.

    Raises:
        InputError: image tokens or image geometry differ, or the chat template does not place image and answer.
    """
    in_config, in_tokenizer = vlm.model.config.image_token_id, vlm.tokenizer.get_vocab().get(vlm.image_token)
    if in_tokenizer != in_config:
        raise InputError(
            f"{vlm.source}: {vlm.image_token} is token {in_tokenizer} of its tokenizer, and {in_config} in its config. "
            f"The tokenizer belongs to another checkpoint."
        )
    _check_layers(vlm)
    vlm.check_geometry()
    try:
        encoded = vlm.encode_image(Image.new("RGB", (64, 48)))
        seen = vlm.geometry(64, 48).tokens
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _unreadable(vlm.source, "image processor settings", error) from None
    if seen != encoded.grid.tokens:
        raise InputError(
            f"{vlm.source}: its image processor gives pixels for {encoded.grid.tokens} tokens, its settings {seen}."
        )
    vlm.tokenize(vlm.caption("dog"), encoded.grid)


def _check_layers(vlm: Vlm) -> None:
    """Whatever a family says, its decoder may be another one: some take any that transformers has.

    Raises:
        InputError: something else than attention carries values from token to token, so that conversations in one
            sequence see each other whatever the mask, and the family does not say so; there are experts; queries have
            no projection of their own.
    """
    known = {"full_attention", "sliding_attention"}
    others = sorted(set(getattr(vlm.text_config, "layer_types", None) or ()) - known)
    if others and vlm.prompt_attention is not PromptAttention.RECURRENT:
        raise InputError(
            f"{vlm.source} is not supported: its decoder has layers of {', '.join(others)}. No head looks at the image "
            "there, and conversations packed into one sequence would see each other."
        )
    experts = [name for name in _EXPERTS if (getattr(vlm.text_config, name, None) or 0) > 1]
    if experts:
        raise InputError(
            f"{vlm.source} is not supported: its decoder is a mixture of {getattr(vlm.text_config, experts[0])} "
            "experts, and none was tested."
        )
    modules = dict(vlm.model.named_modules())
    lacking = [name for name in vlm.projections(vlm.attention_layers, ["q_proj"]) if name not in modules]
    if lacking:
        attention = lacking[0].rpartition(".")[0]
        there = (
            ", ".join(name for name, _ in modules[attention].named_children()) if attention in modules else "nothing"
        )
        raise InputError(
            f"{vlm.source} is not supported: its decoder has no {lacking[0]}, which adapters are attached to, but "
            f"{there}."
        )


def _unreadable(source: str, what: str, error: Exception) -> InputError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(f"{source}: its {what} cannot be used: {lines[0]}")
