"""Models and processors that are in memory already."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from in_memory import TINY, from_memory, in_memory
from transformers import Idefics3ImageProcessorPil, Idefics3Processor

import headimpact
from headimpact.data import scenes
from headimpact.errors import InputError
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm


@pytest.mark.parametrize("name", TINY)
def test_a_model_in_memory_gives_the_numbers_of_its_folder(name: str, project_root: Path):
    folder = project_root / "models" / "bases" / name
    samples = in_memory(1, 2)
    expected = headimpact.score(headimpact.load_base(folder, device="cpu", dtype="float32"), samples)
    base = headimpact.load_base(*from_memory(folder))
    assert (base.source, base.revision, base.digest) == (str(folder), None, "")
    found = headimpact.score(base, samples)
    assert found.objects_frame().equals(expected.objects_frame())


@pytest.mark.parametrize("name", TINY)
def test_of_a_model_in_memory_only_the_decoders_attention_changes_and_comes_back(name: str, project_root: Path):
    model, processor = from_memory(project_root / "models" / "bases" / name)
    before = [model.config._attn_implementation, model.config.vision_config._attn_implementation]
    decoder = model.config.get_text_config()
    own = decoder._attn_implementation
    base = headimpact.load_base(model, processor)
    assert base.model is model
    assert decoder._attn_implementation == "headimpact"
    assert [model.config._attn_implementation, model.config.vision_config._attn_implementation] == before
    image = scenes.draw(0, 1).image
    answer = base.generate(image, "What is this photo?", max_new_tokens=8, do_sample=False)
    model.set_attn_implementation({"text_config": own})
    assert decoder._attn_implementation == own == ("eager" if name == "tiny-paligemma2" else "sdpa")
    assert base.generate(image, "What is this photo?", max_new_tokens=8, do_sample=False) == answer
    for use in (
        lambda: headimpact.score(base, in_memory(1, 2)),
        lambda: headimpact.attention(base, image, "a circle", 0, 0),
    ):
        with pytest.raises(InputError, match=f"attention of .*{name} was set to {own}.*load_base again"):
            use()
    assert headimpact.load_base(model, processor).layers == base.layers


def test_a_transformers_processor_is_taken(smolvlm: Vlm, project_root: Path):
    folder = project_root / "models/bases/tiny-smolvlm"
    model, parts = from_memory(folder)
    processor = Idefics3Processor(parts.image_processor, parts.tokenizer, chat_template=parts.chat_template)
    samples = in_memory(1, 2)
    found = headimpact.score(headimpact.load_base(model, processor), samples)
    assert found.objects_frame().equals(headimpact.score(smolvlm, samples).objects_frame())


def test_a_torchvision_image_processor_becomes_the_pil_one_of_the_same_settings(smolvlm: Vlm, project_root: Path):
    class Idefics3ImageProcessor:
        """Stands for torchvision's, which is installed nowhere here: its settings and its name."""

        def to_dict(self) -> dict:
            return smolvlm.image_processor.to_dict() | {"image_processor_type": "Idefics3ImageProcessor"}

    model, processor = from_memory(project_root / "models/bases/tiny-smolvlm")
    processor.image_processor = Idefics3ImageProcessor()
    base = headimpact.load_base(model, processor)
    assert type(base.image_processor) is Idefics3ImageProcessorPil
    image = scenes.draw(0, 3).image
    assert torch.equal(
        base.encode_image(image).pixels["pixel_values"], smolvlm.encode_image(image).pixels["pixel_values"]
    )
    assert type(processor.image_processor) is Idefics3ImageProcessor


def test_bases_that_cannot_be_taken_are_refused_with_the_reason(smolvlm: Vlm, project_root: Path, tmp_path: Path):
    folder = project_root / "models/bases/tiny-smolvlm"
    model, processor = from_memory(folder)
    with pytest.raises(InputError, match="A dict is no base: give a folder, a hub name, or a transformers model"):
        loading.adopt({}, processor)
    with pytest.raises(InputError, match=r"needs a processor .* not a NoneType.*AutoProcessor"):
        headimpact.load_base(model)
    with pytest.raises(InputError, match=r"needs a processor .* not a \w*Tokenizer"):
        headimpact.load_base(model, processor.tokenizer)
    with pytest.raises(InputError, match=r"model type is idefics3_vision; supported are .*idefics3, .*paligemma"):
        headimpact.load_base(model.model.vision_model, processor)
    with pytest.raises(InputError, match="it holds a Idefics3Model; of idefics3 models, Idefics3ForConditional"):
        headimpact.load_base(model.model, processor)
    other = loading.skeleton(str(folder.with_name("tiny-qwen2-vl"))).image_processor
    with pytest.raises(InputError, match="its image processor is a Qwen2VLImageProcessorPil, where the model takes"):
        headimpact.load_base(model, SimpleNamespace(tokenizer=processor.tokenizer, image_processor=other))
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    with pytest.raises(InputError, match="revision, device and dtype are for a folder or a hub name"):
        headimpact.load_base(model, processor, device="cpu")
    with pytest.raises(InputError, match="brings its own processor"):
        headimpact.load_base(folder, processor)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(InputError, match=r"its model type is llama; supported are .*idefics3"):
        headimpact.load_base(tmp_path)
