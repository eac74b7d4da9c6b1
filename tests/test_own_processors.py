"""What a model gets of an image and a question is what transformers' own processor of its family makes of them."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from family_facts import facts, tiny
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import InternVLProcessor, LlavaNextProcessor, LlavaProcessor

QUESTION = "What is this photo?"
SIZES = [(160, 96), (64, 64), (37, 211)]


def _llava(image_processor: Any, tokenizer: Any, kind: type = LlavaProcessor, family: str = "llava") -> Any:
    begin = tokenizer.bos_token  # as the tokenizer of a Llama puts it before every text
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    return kind(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=facts(family).template,
    )


def _llava_next(image_processor: Any, tokenizer: Any) -> Any:
    return _llava(image_processor, tokenizer, LlavaNextProcessor, "llava_next")


def _internvl(image_processor: Any, tokenizer: Any) -> Any:
    names = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    for name, token in names.items():
        setattr(tokenizer, f"{name}_token", token)
        setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
    template = facts("internvl").template
    return InternVLProcessor(image_processor, tokenizer, image_seq_length=64, chat_template=template)


PROCESSORS: dict[str, Callable[[Any, Any], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "internvl": _internvl,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", PROCESSORS)
def test_inputs_are_those_of_transformers_processor(
    family: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # InternVL's wants a video processor, which needs torchvision.
    monkeypatch.setattr(InternVLProcessor, "check_argument_for_proper_class", lambda *_: None)
    vlm = tiny(family)
    width, height = size
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    expected = PROCESSORS[family](vlm.image_processor, copy.deepcopy(vlm.tokenizer)).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    encoded = vlm.encode_image(image)
    found = vlm.native_inputs(vlm.prompt(QUESTION, encoded.grid), encoded)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
