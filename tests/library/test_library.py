"""The library: its page runs as it stands, it imports nothing of the lifecycle, and it says what the steps say."""

import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import obvious
import peft
import pytest
import torch
import yaml
from engines import engine_of
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, Idefics3ImageProcessorPil, Idefics3Processor

import headimpact
from headimpact import api
from headimpact.adapters import lora
from headimpact.data import scenes
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.impact.attention_map import AttentionMap
from headimpact.impact.head_impact import Impact
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.base import Vlm
from headimpact.vlm.tokengrid import TokenGrid

TINY = ("tiny-paligemma2", "tiny-qwen2-vl", "tiny-smolvlm")


def run(code: str, folder: Path, project_root: Path) -> str:
    """What a fresh process prints that knows the package alone, in a folder that is no project."""
    environment = {"PYTHONPATH": str(project_root / "src"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_memory(*scene_ids: int) -> list[Sample]:
    drawn = [scenes.draw(0, scene_id) for scene_id in scene_ids]
    return headimpact.make_samples([(s.image, [(thing.mask, thing.rich) for thing in s.things]) for s in drawn])


def from_memory(folder: Path) -> tuple:
    """A transformers model and its processor, whose class needs torchvision for one of the families."""
    base = loading.skeleton(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(folder),
        image_processor=base.image_processor,
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
    )
    return model, processor


@pytest.fixture(scope="module")
def smolvlm(project_root: Path) -> Vlm:
    return headimpact.load_base(project_root / "models/bases/tiny-smolvlm", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def impact(smolvlm: Vlm) -> Impact:
    return headimpact.score(smolvlm, in_memory(1, 2))


# ---- the package


def test_the_page_runs_in_a_folder_that_is_no_project_and_without_mlflow_and_dvc(tmp_path: Path, project_root: Path):
    page = (project_root / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", page, re.M | re.S)]
    assert len(blocks) == page.count("```python") == 6
    (tmp_path / "models").symlink_to(project_root / "models")
    write_scenes(tmp_path / "data" / "dataset", {"impact": 3}, seed=0)
    for name, scene_id in (("first", 1), ("second", 2)):
        scene = scenes.draw(0, scene_id)
        scene.image.save(tmp_path / f"{name}.png")
        Image.fromarray(scene.things[0].mask).save(tmp_path / f"{name}-mask.png")
    report = textwrap.dedent(
        """
        import sys
        modules = {name.split(".")[0] for name in sys.modules}
        assert not modules & {"mlflow", "dvc", "typer", "IPython"}, modules
        assert not [name for name in sys.modules if name.startswith("headimpact.lifecycle")]
        print(len(selection.layers), sorted(impact.table()), seen.whole.shape, adapted.peft_config["default"].r)
        """
    )
    printed = run("\n".join([*blocks, report]), tmp_path, project_root)
    assert printed.startswith("4 ['auroc', 'chance'")
    assert printed.endswith(" 8\n")


def test_the_import_alone_imports_nothing(tmp_path: Path, project_root: Path):
    code = (
        "import sys; before = set(sys.modules); import headimpact; dir(headimpact); "
        "print({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    assert run(code, tmp_path, project_root) == "{'headimpact'}\n"


def test_every_name_is_there_and_told_to_editors(project_root: Path):
    told = re.search(
        r"if TYPE_CHECKING:.*?import \((.*?)\)", (project_root / "src/headimpact/__init__.py").read_text(), re.S
    )
    assert told is not None
    assert re.findall(r"\w+", told[1]) == headimpact.__all__ == api.__all__
    assert dir(headimpact) == sorted(["__version__", *headimpact.__all__])
    for name in headimpact.__all__:
        assert getattr(headimpact, name) is getattr(api, name)
        assert getattr(headimpact, name).__doc__
    with pytest.raises(AttributeError, match="'headimpact' has no attribute 'train'"):
        headimpact.train  # noqa: B018


def test_defaults_are_the_values_of_params(project_root: Path):
    params = yaml.safe_load((project_root / "params.yaml").read_text())

    def defaults(function):
        return {name: p.default for name, p in inspect.signature(function).parameters.items()}

    assert defaults(headimpact.score).items() >= {**params["impact"], "seed": params["seed"]}.items()
    assert defaults(headimpact.select)["seed"] == params["seed"]
    expected = params["lora"] | {"targets": tuple(params["lora"]["targets"])}
    assert defaults(headimpact.lora_config).items() >= expected.items()
    compute = params["compute"]
    assert defaults(headimpact.load_base).items() >= {name: compute[name] for name in ("device", "dtype")}.items()
    assert defaults(headimpact.score)["batch_tokens"] == compute["batch_tokens"]


def test_the_distribution_holds_every_file_and_the_pinned_dependencies(tmp_path: Path, project_root: Path):
    """Built from links, because building writes into the folder."""
    for name in ("pyproject.toml", "requirements.txt"):
        (tmp_path / name).symlink_to(project_root / name)
    package = project_root / "src" / "headimpact"
    files = [f for f in sorted(package.rglob("*")) if f.is_file() and "__pycache__" not in f.parts]
    for file in files:
        link = tmp_path / "src" / file.relative_to(package.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    code = (
        "import contextlib, sys, zipfile\n"
        "from setuptools import build_meta\n"
        "with contextlib.redirect_stdout(sys.stderr):\n"
        "    name = build_meta.build_wheel('.')\n"
        "with zipfile.ZipFile(name) as wheel:\n"
        "    for member in wheel.namelist():\n"
        "        print(member)\n"
        "        if member.endswith(('METADATA', 'entry_points.txt')):\n"
        "            print(wheel.read(member).decode())\n"
    )
    lines = run(code, tmp_path, project_root).splitlines()
    assert {file.relative_to(package.parent).as_posix() for file in files} <= set(lines)
    pinned = (project_root / "requirements.txt").read_text().split()
    assert [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist")] == pinned
    assert f"Version: {headimpact.__version__}" in lines
    assert "headimpact = headimpact.lifecycle.command_line:app" in lines


# ---- bases


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


# ---- samples and scores


def test_a_dataset_folder_and_its_images_in_memory_give_the_same_scores(smolvlm: Vlm, tmp_path: Path):
    write_scenes(tmp_path, {"impact": 2, "train": 1}, seed=0)
    read = headimpact.read_samples(tmp_path)
    made = headimpact.make_samples([(s.image(), [(o.mask(), o.phrase) for o in s.objects]) for s in read])
    assert [o.id for s in made for o in s.objects] == list(range(sum(len(s.objects) for s in read)))
    watched: list[tuple[int, str]] = []
    impact = headimpact.score(
        smolvlm, read, watch=lambda images, total, what: watched.append((total, what)) or images, batch_tokens=1
    )
    assert watched == [(2, "scoring")]
    assert np.allclose(impact.hi, headimpact.score(smolvlm, made).hi, atol=1e-6)
    expected, _ = score_images(engine_of(smolvlm, batch_tokens=1), read, ChanceSettings(threshold=0.5, draws=4, seed=0))
    assert expected.objects_frame().equals(impact.objects_frame())
    assert len(headimpact.read_samples(tmp_path, "train")) == 1


def test_masks_of_booleans_and_of_numbers_are_the_same():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2:4] = True
    image = Image.new("RGBA", (6, 4), (1, 2, 3, 4))
    masks = (mask, mask.astype(np.uint8) * 255, mask.astype(np.int64) * 7)
    (sample,) = headimpact.make_samples([(image, [(m, "a dash") for m in masks])])
    assert sample.image().mode == "RGB"
    assert (sample.width, sample.height) == (6, 4)
    for obj in sample.objects:
        assert (obj.mask() == mask).all()
        assert (obj.bbox, obj.area, obj.phrase) == ((2, 1, 2, 1), 2, "a dash")


HALF = np.arange(24).reshape(4, 6) < 12


@pytest.mark.parametrize(
    ("mode", "mask", "phrase", "message"),
    [
        ("RGB", HALF.T, "a dash", r"Object 1 of image 0 has a mask of shape \(6, 4\), .* shape \(4, 6\)"),
        ("RGB", HALF[..., None], "a dash", r"shape \(4, 6, 1\)"),
        ("RGB", HALF & False, "a dash", "Object 1 of image 0 has a mask that is empty"),
        ("RGB", HALF | True, "a dash", "mask that covers the whole image"),
        ("RGB", HALF * 0.7, "a dash", "a mask of float64 .* booleans, as mask > 0.5"),
        ("RGB", HALF + np.eye(4, 6, dtype=np.uint8), "a dash", "a mask of uint8 with 2 different values other than 0"),
        ("RGB", HALF, " \n", "Object 1 of image 0 has an empty phrase: describe the object"),
        ("I;16", HALF, "a dash", r"Image 0 has more than 8 bits a channel \(mode I;16\): convert it"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_made_are_refused_with_the_place(mode, mask, phrase, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        headimpact.make_samples([(Image.new(mode, (6, 4)), [(HALF, "a half"), (mask, phrase)])])


def test_what_cannot_be_scored_is_told(smolvlm: Vlm, monkeypatch: pytest.MonkeyPatch):
    samples = in_memory(1, 2)
    with pytest.raises(InputError, match="Two samples have the id 0: make all samples in one call"):
        headimpact.score(smolvlm, [*samples, *in_memory(3)])
    with pytest.raises(InputError, match="two images with objects"):
        headimpact.score(smolvlm, samples[:1])
    coverages, calls = smolvlm.coverages, []

    def unseen_first(masks, size=None):
        calls.append(masks)
        return coverages(masks, size) * (len(calls) > 1)

    monkeypatch.setattr(smolvlm, "coverages", unseen_first)
    with pytest.warns(UserWarning, match=r"^1 objects were left out: no visual token sees the object \(1\)\.$"):
        impact = headimpact.score(smolvlm, samples)
    assert len(impact.object_ids) == sum(len(sample.objects) for sample in samples) - 1


def test_the_heatmap_shows_itself_in_a_notebook(impact: Impact):
    figure = headimpact.heatmap(impact, "scenes")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure.axes[0].get_title() == "scenes"
    assert np.asarray(figure.axes[0].images[0].get_array()) == pytest.approx(impact.hi)


# ---- selection and adapters


def test_the_highest_layers_are_selected(impact: Impact):
    order = np.argsort(-impact.layer_scores(), kind="stable")
    assert headimpact.select("top-4", impact).layers == tuple(sorted(order[:4].tolist()))
    assert headimpact.select("bottom-2", impact).layers == tuple(sorted(order[-2:].tolist()))
    by_column = impact.table().groupby("layer")["auroc"].mean().to_numpy()
    assert headimpact.select("auroc-1", impact).layers == (int(by_column.argmax()),)
    draws = {headimpact.select("random-2", impact, seed=seed).layers for seed in range(6)}
    assert len(draws) > 1
    with pytest.raises(InputError, match="Unknown setup 'best-4'"):
        headimpact.select("best-4", impact)
    with pytest.raises(InputError, match=r"'gradient-4' .*was not measured"):
        headimpact.select("gradient-4", impact)


@pytest.mark.parametrize("name", TINY)
def test_the_configuration_adapts_the_selected_layers_of_ones_own_model(name: str, project_root: Path):
    model, processor = from_memory(project_root / "models" / "bases" / name)
    base = headimpact.load_base(model, processor)
    selection = headimpact.select("layers:0,3", headimpact.score(base, in_memory(1, 2)))
    config = headimpact.lora_config(base, selection, rank=2, alpha=6, targets=("q_proj", "v_proj"))
    assert type(config) is peft.LoraConfig
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (2, 6, 0.0, "none")
    names = [f"{base.decoder_path}.layers.{i}.self_attn.{p}" for i in (0, 3) for p in ("q_proj", "v_proj")]
    assert sorted(config.target_modules) == sorted(names)
    adapted = peft.get_peft_model(model, config)
    assert lora.adapted_modules(adapted) == sorted(names)
    assert {p.shape[0] for n, p in adapted.named_parameters() if "lora_A" in n} == {2}


@pytest.mark.parametrize("setup", ["full", "full-4", "full-1", "top-3"])
def test_the_configuration_is_that_of_the_steps(setup: str, impact: Impact):
    base = bases.build("tiny-smolvlm", 0)
    selection = headimpact.select(setup, impact)
    config = headimpact.lora_config(base, selection)
    ranks = {"full-4": lora.spread(14, 4, 8), "full-1": lora.spread(14, 1, 8)}.get(setup)
    layers = list(ranks or selection.layers)
    settings = lora.LoraSettings(8, 16, ("q_proj", "k_proj", "v_proj"))
    expected = lora.attach(base, layers, settings, 0, ranks)
    adapted = peft.get_peft_model(bases.build("tiny-smolvlm", 0).model, config)
    shapes = [{n: p.shape for n, p in m.named_parameters() if p.requires_grad} for m in (adapted, expected)]
    assert shapes[0] == shapes[1]
    found, wanted = (m.peft_config["default"] for m in (adapted, expected))
    assert (found.rank_pattern, found.alpha_pattern) == (wanted.rank_pattern, wanted.alpha_pattern)


def test_what_a_configuration_cannot_say_is_refused(smolvlm: Vlm, impact: Impact):
    with pytest.raises(InputError, match=r"'heads:0\.1' adapts single heads.*headimpact finetune --setup heads:0\.1"):
        headimpact.lora_config(smolvlm, headimpact.select("heads:0.1", impact))
    with pytest.raises(InputError, match="'original' adapts no layer"):
        headimpact.lora_config(smolvlm, headimpact.select("original", impact))
    shorter = Impact(
        impact.image_ids, impact.object_ids, *(getattr(impact, n)[:, :5] for n in ("iou", "chance", "auroc", "mass"))
    )
    with pytest.raises(InputError, match=r"for a model of 5 layers, and .*tiny-smolvlm has 14"):
        headimpact.lora_config(smolvlm, headimpact.select("top-2", shorter))


# ---- attention


@pytest.mark.parametrize("name", TINY)
def test_the_attention_of_a_head_is_that_of_an_eager_forward(name: str):
    base = bases.build(name, 3)
    image = scenes.draw(0, 1).image
    encoded = base.encode_image(image)
    tokens = base.tokenize(base.caption("a red circle"), encoded.grid)
    expected = obvious.attention_maps(base, tokens, encoded)[:, :, tokens.target][..., tokens.visual].mean(2)
    layer, head = base.layers - 1, base.heads - 1
    found = headimpact.attention(base, image, "a red circle", layer, head)
    assert found.grid == encoded.grid
    assert found.values == pytest.approx(expected[layer, head].numpy(), abs=1e-7)
    assert 0 < found.values.sum() < 1
    assert (found.crops is None) == (name != "tiny-smolvlm")
    assert found.whole.shape == (encoded.grid.rows, encoded.grid.cols)


def test_crops_and_the_whole_image_lie_where_they_are_seen():
    """2 x 1 crops of 1 x 2 tokens, one below the other, and the whole image."""
    found = AttentionMap(np.array([1, 2, 3, 4, 5, 6], dtype=np.float32) / 100, TokenGrid(1, 2, 2, 1))
    assert found.crops is not None
    assert (found.crops * 100).round().tolist() == [[1, 2], [3, 4]]
    assert (found.whole * 100).round().tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("phrase", "layer", "head", "message"),
    [
        ("  ", 0, 0, "The phrase is empty"),
        ("a circle", 14, 0, "There is no layer 14: .*tiny-smolvlm has 14 layers, 0 to 13"),
        ("a circle", -1, 0, "There is no layer -1"),
        ("a circle", 0, 6, "There is no head 6: .* has 6 heads, 0 to 5"),
        ("<image>", 0, 0, "must not contain <image>"),
    ],
)
def test_attention_that_is_not_there_is_refused(smolvlm: Vlm, phrase, layer, head, message):
    with pytest.raises(InputError, match=message):
        headimpact.attention(smolvlm, Image.new("RGB", (96, 64)), phrase, layer, head)
