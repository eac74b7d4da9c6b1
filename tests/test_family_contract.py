"""What every family of the table has to be: text, engine, adapters, generation, each against the obvious way.

Runs on a tiny model with random weights, and on the real checkpoint's settings without weights (``family_facts.py``).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import family_facts
import grimp
import obvious
import pytest
import torch
from engines import captions_of, engine_of
from family_facts import families, fresh, noise, tiny

from headimpact.adapters import lora
from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine import likelihood
from headimpact.engine.phrases import backward, phrase_nll
from headimpact.lifecycle import layout
from headimpact.vlm import attention, packing
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.conversations import Conversation
from headimpact.vlm.families import FAMILIES, family_class
from headimpact.vlm.layers import PROJECTIONS
from headimpact.vlm.packing import Tokens

PHRASES = [
    "solid red circle upper left",
    "striped blue square lower right",
    "red circle",
    "dotted ring",
    "red",
]
OPTIONS = ["red circle", "blue circle", "solid blue square", "dotted red star"]


# ---- the table

ALONE = """
import sys
from headimpact.vlm import families
print([name for name in ("torch", "transformers") if name in sys.modules])
print([name for name in sys.modules if name.startswith(families.__name__ + ".")])
"""


def test_no_family_is_loaded_before_it_is_needed(project_root: Path):
    environment = os.environ | {"PYTHONPATH": str(project_root / "src")}
    run = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True)
    assert run.stdout == "[]\n[]\n", run.stderr


def test_a_family_is_loaded_alone():
    """Otherwise an error in one of them would keep all the others from loading."""
    graph, package = grimp.build_graph("headimpact", cache_dir=None), "headimpact.vlm.families."
    for family in FAMILIES:
        module = family_class(family).__module__
        loaded = {module, *graph.find_upstream_modules(module)}
        assert {name.removeprefix(package) for name in loaded if name.startswith(package)} == _files(family)


def _files(family: str) -> set[str]:
    """The family's own file, and that of the family which it derives from."""
    package = "headimpact.vlm.families."
    modules = [kind.__module__ for kind in family_class(family).__mro__]
    return {module.removeprefix(package) for module in modules if module.startswith(package)}


def test_a_family_without_facts_fails_with_a_sentence():
    with pytest.raises(pytest.fail.Exception, match="The family sesame stands in FAMILIES: give its FACTS in tests"):
        tiny("sesame")


def test_every_family_was_measured_and_is_as_near_as_the_tests_hold_it(project_root: Path):
    """The table in docs/models.md (``python benchmarks/contract.py``)."""
    rows = json.loads((project_root / layout.CONTRACT).read_text())
    assert [row["family"] for row in rows] == list(FAMILIES)
    for row in rows:
        assert row["attention rows"] < 1e-5
        assert max(row["answers, nats"], row["packed or alone, nats"]) < 1e-4
        assert row["coverage of a token"] < 0.03
        assert row["visual tokens"] == "10 of 10 sizes"
        assert (row["conversations"] == "alone") == (
            tiny(row["family"]).prompt_attention is packing.PromptAttention.RECURRENT
        )


# ---- text


def with_template(vlm: Vlm, template: str | None) -> Vlm:
    return type(vlm)(vlm.model, vlm.tokenizer, vlm.image_processor, template, vlm.source, None, "")


@families()
def test_the_real_template_and_the_familys_own_give_the_text_of_the_design(family: str):
    facts = family_facts.facts(family)
    by_real, by_own = (with_template(tiny(family), template) for template in (facts.template, None))
    conversation = by_own.caption("red circle")
    for vlm in (by_real, by_own):
        text = vlm.render(conversation.user, conversation.answer)
        assert text.replace(vlm.image_placeholder, "<image>") == facts.caption.format(phrase="red circle")
        assert text.startswith(vlm.render(conversation.user, None))
    for user, answer in (("Hello?", "A."), ("Hello?", None), ("two\nlines", "B.")):
        assert by_own.render(user, answer) == by_real.render(user, answer)


@families()
@pytest.mark.parametrize(
    "phrase", ["solid red circle upper left", "dog, dog", "naïve café ☕", "What", "3 men's hats."]
)
def test_description_tokens_cover_the_phrase_and_no_more(family: str, phrase: str):
    vlm = tiny(family)
    conversation = vlm.caption(phrase)
    tokens = vlm.tokenize(conversation, vlm.grid(128, 96))
    assert vlm.tokenizer.decode(tokens.ids[tokens.target]).strip() == phrase
    closing = family_facts.facts(family).closing
    answer = vlm.tokenizer.decode(tokens.ids[tokens.answer]).strip()
    assert answer == conversation.answer + (vlm.tokenizer.eos_token if closing is None else closing)


@families()
def test_option_labels_are_found_in_place(family: str):
    vlm = tiny(family)
    options = ["red circle", "blue square", "A", "green star"]
    for label in range(4):
        tokens, ids = vlm.question_tokens(options, label, vlm.grid(128, 96))
        assert [vlm.tokenizer.decode(i).strip() for i in ids] == ["A", "B", "C", "D"]
        assert tokens.ids[tokens.target].tolist() == [ids[label]]


@families()
def test_without_an_end_token_the_answer_ends_with_its_text(family: str):
    part = f"{{{{ '{tiny(family).image_placeholder}' if p['type'] == 'image' else p['text'] }}}} "
    template = "{% for m in messages %}{% for p in m['content'] %}" + part + "{% endfor %}{% endfor %}"
    vlm = with_template(tiny(family), template)
    tokens = vlm.tokenize(Conversation("What is this", "red circle", (4, 10)), vlm.grid(128, 96))
    assert vlm.tokenizer.decode(tokens.ids[tokens.answer].tolist()).strip() == "red circle"
    assert vlm.tokenizer.decode(tokens.ids[tokens.target].tolist()).strip() == "circle"


# ---- the engine

# Images with one and with many objects, in batches of different sizes.
BATCHES = [
    [((160, 96), 1)],
    [((128, 128), 5)],
    [((160, 120), 3), ((96, 160), 1), ((128, 96), 5)],
]


@families()
@pytest.mark.parametrize("batch", BATCHES, ids=["one object", "one image", "three images"])
def test_packed_forward_equals_one_conversation_per_sequence(
    family: str, batch: list[tuple[tuple[int, int], int]], monkeypatch: pytest.MonkeyPatch
):
    vlm = tiny(family)
    if len(batch) > 1:  # what is causal goes without a mask, as in sequences of real length
        monkeypatch.setattr(attention, "LONG", 1)
    images = [vlm.encode_image(noise(index, size)) for index, (size, _) in enumerate(batch)]
    captions = [
        [vlm.tokenize(vlm.caption(phrase), image.grid) for phrase in PHRASES[:objects]]
        for image, (_, objects) in zip(images, batch, strict=True)
    ]
    questions = [
        [vlm.question_tokens(OPTIONS, index % 4, image.grid) for index in range(objects)]
        for image, (_, objects) in zip(images, batch, strict=True)
    ]
    rows, answers, options = packed_forward(vlm, images, captions, questions)
    for index, image in enumerate(images):
        for tokens in captions[index]:
            plain = obvious.native_forward(vlm, tokens, image, output_attentions=True)
            check_answer(next(answers), plain.logits, tokens)
            maps = torch.cat(plain.attentions)
            expected = maps[:, :, tokens.target][..., tokens.visual].mean(dim=2)
            torch.testing.assert_close(next(rows), expected, atol=1e-5, rtol=0)
        for tokens, ids in questions[index]:
            plain = obvious.native_forward(vlm, tokens, image)
            check_answer(next(answers), plain.logits, tokens)
            expected = plain.logits[0, tokens.target[0] - 1].softmax(-1)[ids]
            torch.testing.assert_close(next(options).exp(), expected, atol=1e-4, rtol=0)


def check_answer(answer: torch.Tensor, logits: torch.Tensor, tokens: Tokens) -> None:
    expected = logits[0, tokens.answer - 1].log_softmax(-1).gather(1, tokens.ids[tokens.answer, None])[:, 0]
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)


def packed_forward(vlm: Vlm, images: list[EncodedImage], captions: list[list[Tokens]], questions: list[list]):
    """Attention rows of all captions (layers, heads, visual tokens), log-probabilities of all answers, and of the
    option labels of all questions; image by image, captions first."""
    conversations = [[*c, *(tokens for tokens, _ in q)] for c, q in zip(captions, questions, strict=True)]
    labels = [
        ids for c, q in zip(captions, questions, strict=True) for ids in (*[None] * len(c), *(ids for _, ids in q))
    ]
    packed = packing.pack_images(conversations, vlm.prompt_attention)
    descriptions = [
        attention.Description(row, where[tokens.target], tokens.visual)
        for (image, index), (row, where), tokens in zip(packed.members, packed.places, packed.tokens, strict=True)
        if index < len(captions[image])
    ]
    layers: dict[int, list[torch.Tensor]] = {}
    capture = attention.RowCapture(descriptions, lambda layer, maps: layers.__setitem__(layer, maps))
    with torch.inference_mode():
        features = vlm.image_features(images)
        embeddings = vlm.embeddings(packed.batch, [features[index] for index in packed.images])
        hidden = vlm.hidden_states(packed.batch, embeddings, capture)
        picked = [tokens.answer for tokens in packed.tokens]
        answers = likelihood.log_probabilities(vlm, packed, hidden, picked)
        options = likelihood.option_log_probabilities(vlm, packed, hidden, labels)
    assert sorted(layers) == list(vlm.attention_layers)
    rows = [torch.stack([layers[layer][index] for layer in sorted(layers)]) for index in range(len(descriptions))]
    return iter(rows), iter(answers), iter(options)


@families()
def test_packed_equals_unpacked(family: str):
    """The engine's own forward of all conversations together, and of each alone."""
    vlm = tiny(family)
    image = vlm.encode_image(noise(0, (160, 96)))
    captions = [vlm.tokenize(vlm.caption(phrase), image.grid) for phrase in PHRASES]
    questions = [vlm.question_tokens(order, 0, image.grid) for order in (OPTIONS, OPTIONS[::-1])]
    together = list(packed_forward(vlm, [image], [captions], [questions])[1])
    alone = []
    for tokens in [*captions, *(tokens for tokens, _ in questions)]:
        packed = packing.pack_images([[tokens]], vlm.prompt_attention)
        assert len(packed.batch.ids[0]) == len(tokens.ids)
        with torch.inference_mode():
            hidden = vlm.hidden_states(packed.batch, vlm.embeddings(packed.batch, vlm.image_features([image])))
            alone += likelihood.log_probabilities(vlm, packed, hidden, [tokens.answer])
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@families()
def test_conversations_share_what_their_attention_allows(family: str):
    """Whatever they have in common; where the whole prompt attends in both directions, all of it; and nothing where
    something else than attention carries values on."""
    vlm = tiny(family)
    if vlm.prompt_attention is packing.PromptAttention.RECURRENT:
        expected = [(0,), (1,), (2,), (3,), (4,)]
    elif vlm.prompt_attention is packing.PromptAttention.PREFIX:
        expected = [(0, 1, 2), (3,), (4,)]
    else:
        expected = [(0, 1, 2, 3, 4)]
    grid = vlm.grid(128, 96)
    captions = [vlm.tokenize(vlm.caption(phrase), grid) for phrase in PHRASES[:3]]
    questions = [vlm.question_tokens(order, 0, grid)[0] for order in (OPTIONS, OPTIONS[::-1])]
    groups = packing.pack_image([*captions, *questions], vlm.prompt_attention)
    assert [group.members for group in groups] == expected
    assert len(groups) == 5 or sum(len(group.ids) for group in groups[:1]) < sum(len(c.ids) for c in captions)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 2, "val": 1, "test": 1}, seed=0)
    return coco.read_part(folder, "train")


@families()
def test_losses_are_transformers_own(family: str, samples: list[Sample]):
    """One conversation at a time through the model's own forward with labels."""
    vlm = tiny(family)
    engine, losses = engine_of(vlm), []
    images = captions_of(engine, samples)
    nll_of_all, count = backward(engine, images, losses.append)
    phrases = phrase_nll(engine, images)
    total, tokens_seen, objects = 0.0, 0, []
    for sample in samples:
        encoded = vlm.encode_image(sample.image())
        for obj in sample.objects:
            tokens = vlm.tokenize(vlm.caption(obj.phrase), encoded.grid)
            total += obvious.answer_loss(vlm, tokens, encoded) * len(tokens.answer)
            tokens_seen += len(tokens.answer)
            objects.append((sample, obj, obvious.phrase_nll(vlm, obj.phrase, encoded), len(tokens.target)))
    assert count == tokens_seen
    assert nll_of_all / count == pytest.approx(total / tokens_seen, abs=1e-4)
    assert sum(losses).item() == pytest.approx(nll_of_all, rel=1e-6)
    for (sample, obj, nll, length), expected in zip(phrases, objects, strict=True):
        assert (sample, obj, length) == (*expected[:2], expected[3])
        assert nll == pytest.approx(expected[2], abs=1e-4)


@families()
def test_generation_is_the_plain_models(family: str):
    """The answer generated with the cache equals the greedy continuation by transformers' own forward without it."""
    vlm = tiny(family)
    picture = noise(0, (128, 96))
    encoded = vlm.encode_image(picture)
    prompt = vlm.prompt("What is this photo?", encoded.grid)
    ids = prompt.ids
    for _ in range(4):
        positions, answer = vlm.position_ids(ids, encoded.grid), torch.arange(len(prompt.ids), len(ids))
        logits = obvious.native_forward(vlm, Tokens(ids, positions, prompt.visual, answer, ids[:0]), encoded).logits
        ids = torch.cat([ids, logits[0, -1:].argmax(-1)])
    expected = vlm.tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True).strip()
    assert vlm.generate(picture, "What is this photo?", max_new_tokens=4, do_sample=False) == expected


# ---- adapters


@families()
@pytest.mark.parametrize("targets", [("q_proj", "k_proj", "v_proj"), tuple(PROJECTIONS)])
def test_exactly_the_language_models_projections_are_adapted(family: str, targets: tuple[str, ...]):
    vlm = fresh(family)
    settings = lora.LoraSettings(rank=8, alpha=16, targets=targets)
    adapted = lora.adapted_modules(lora.attach(vlm, [1, 3], settings, seed=0))
    assert adapted == sorted(vlm.projections([3, 1], settings.targets))
    own = [target for layer in (1, 3) for target in targets if target in vlm.projections_of(layer)]
    assert len(adapted) == len(own) >= len(targets)
    assert all(name.startswith(vlm.decoder_path) for name in adapted)
    assert {name.split("layers.")[1].split(".")[0] for name in adapted} == {"1", "3"}
    assert not any("vision" in name or "visual" in name for name in adapted)
