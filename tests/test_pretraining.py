"""Pretraining of the tiny bases: all phases run, what is killed goes on to the same bytes, no question lies."""

import collections
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import obvious
import pytest
import torch

from headimpact import files
from headimpact.data import scenes
from headimpact.engine import checkpoints
from headimpact.tiny import bases, pretraining
from headimpact.tiny.pretraining import PHASES, Pretraining, Recipe, Record, draw_contrast, draw_question
from headimpact.vlm.conversations import OPTION_LABELS

RECIPE = Recipe(
    seed=7,
    held_out=3,
    batch_images=2,
    vision_batch_images=2,
    questions=2,
    language_steps=3,
    vision_steps=2,
    joint_steps=3,
    language_lr=2e-3,
    vision_lr=2e-3,
    joint_lr=1e-3,
    checkpoint_steps=2,
    evaluation_steps=2,
)


def prepare(checkpoint: Path, name="tiny-smolvlm", **changes) -> Pretraining:
    recipe = dataclasses.replace(RECIPE, **changes)
    return Pretraining(bases.build(name, recipe.seed), recipe, checkpoint)


def kill_after(run: Pretraining, records: int) -> None:
    collections.deque(itertools.islice(run.run(), records), maxlen=0)


def base_digest(run: Pretraining, folder: Path) -> str:
    bases.save(run.vlm, folder / "base")
    return files.digest_folder(folder / "base")


# ---- the run


@pytest.mark.parametrize("name", bases.TINY)
def test_all_phases_train_what_is_theirs(tmp_path, name):
    run = prepare(tmp_path / "state", name)
    start = snapshot(run)
    states = {}
    for record in run.run():
        assert np.isfinite(record.value)
        states[record.phase] = snapshot(run)  # of the last record: the phase's end
    assert list(states) == list(PHASES)

    parts = [part_of(run, key) for key in start]
    assert set(parts) == {"decoder", "vision", "attributes", "truth"}
    before = start
    for phase, trained in (
        ("language", {"decoder", "truth"}),
        ("vision", {"vision", "attributes"}),
        ("joint", {"decoder", "vision", "attributes", "truth"}),
    ):
        after = states[phase]
        moved = {part for key, part in zip(start, parts, strict=True) if not torch.equal(before[key], after[key])}
        assert moved == trained
        before = after


def snapshot(run: Pretraining) -> dict[str, torch.Tensor]:
    model = {f"model.{k}": p.detach().clone() for k, p in run.vlm.model.named_parameters()}
    return model | {f"probes.{k}": p.detach().clone() for k, p in run.probes.named_parameters()}


def part_of(run: Pretraining, key: str) -> str:
    owner, name = key.split(".", 1)
    if owner == "probes":
        return name.split(".")[0]
    return "decoder" if name.startswith(run.vlm.decoder_path) else "vision"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[list[Record], str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = prepare(folder / "state")
    return list(run.run()), base_digest(run, folder)


def test_the_learning_curve(undisturbed):
    history, _ = undisturbed
    losses = [(r.phase, r.step) for r in history if r.metric == "loss"]
    assert losses == [
        *(("language", step) for step in (1, 2, 3)),
        *(("vision", step) for step in (1, 2)),
        *(("joint", step) for step in (1, 2, 3)),
    ]
    measured = collections.defaultdict(set)
    for record in history:
        if record.metric != "loss":
            measured[record.phase, record.step].add(record.metric)
    said, seen = {"accuracy", "perplexity"}, set(pretraining.ATTRIBUTES)
    assert measured == {
        ("language", 2): said,
        ("language", 3): said,
        ("vision", 2): said | seen,
        ("joint", 2): said | seen,
        ("joint", 3): said | seen,
    }
    shares = [r.value for r in history if r.metric not in ("loss", "perplexity")]
    assert all(0 <= value <= 1 for value in shares)


# Records: language 1 + 3 + 3, vision 1 + 8, joint 1 + 8 + 8; a checkpoint behind the second step of each phase.
@pytest.mark.parametrize(
    ("killed_after", "saved", "goes_on_with"),
    [
        ([2], None, ("language", 0)),  # before the first checkpoint
        ([8], ("language", 2), ("language", 2)),  # in the next phase, whose first checkpoint is not there yet
        ([17], ("vision", 2), ("joint", 0)),  # between two phases
        ([5, 17, 27], ("joint", 2), ("joint", 2)),  # again and again
    ],
)
def test_a_killed_run_ends_with_the_same_bytes(undisturbed, tmp_path, killed_after, saved, goes_on_with):
    for records in killed_after:
        kill_after(prepare(tmp_path / "state"), records)
    if saved is None:
        assert not (tmp_path / "state").exists()
    else:
        state = checkpoints.load(tmp_path / "state")[2]
        assert (state["phase"], state["step"]) == saved
    run = prepare(tmp_path / "state")
    worked, real = [], run.loss
    run.loss = lambda phase, step: worked.append((phase, step)) or real(phase, step)
    assert list(run.run()) == undisturbed[0]
    assert worked[0] == goes_on_with
    assert base_digest(run, tmp_path) == undisturbed[1]


def test_a_changed_recipe_starts_over(undisturbed, tmp_path):
    kill_after(prepare(tmp_path / "state", language_lr=1e-2), 17)
    run = prepare(tmp_path / "state")
    assert list(run.run()) == undisturbed[0]
    assert base_digest(run, tmp_path) == undisturbed[1]


# ---- scenes and conversations


def test_a_scene_is_seen_as_it_was_drawn():
    """What a visual token shows is the thing that covers most of it."""
    vlm = bases.build("tiny-smolvlm", 0)
    for scene_id in range(4):
        seen, scene = pretraining.look(vlm, 7, scene_id), scenes.draw(7, scene_id)
        assert [thing.rich for thing in seen.things] == [thing.rich for thing in scene.things]
        covered = torch.stack([vlm.coverages([thing.mask])[0] for thing in scene.things]).numpy()
        assert covered.shape[1] == seen.encoded.grid.tokens
        for token in range(seen.encoded.grid.tokens):
            thing = scene.things[covered[:, token].argmax()]
            vertical, horizontal = thing.position.split()
            looks = [thing.colour, thing.shape, thing.texture, vertical, horizontal]
            is_shown = covered[:, token].max() >= pretraining.SEEN_THRESHOLD
            for (name, words), word in zip(pretraining.ATTRIBUTES.items(), looks, strict=True):
                assert seen.shown[name][token] == (words.index(word) if is_shown else len(words))
        assert (seen.shown["colour"] < len(scenes.COLOURS)).any()


@pytest.mark.parametrize("name", bases.TINY)
def test_a_scene_in_words(name):
    """Each visual token is the sum of the embeddings of what it shows; without the image's pixels."""
    vlm = bases.build(name, 0)
    seen = pretraining.look(vlm, 7, 1)
    with torch.no_grad():
        found = pretraining.in_words(vlm, seen)
        for token in range(seen.encoded.grid.tokens):
            expected = torch.zeros(found.shape[1])
            for attribute, names in pretraining.ATTRIBUTES.items():
                word = (*names, "no")[seen.shown[attribute][token]]
                (word_id,) = vlm.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
                expected += vlm.model.get_input_embeddings()(torch.tensor(word_id))
            torch.testing.assert_close(found[token], expected)


def test_no_scene_is_shown_twice(tmp_path, monkeypatch):
    run = prepare(tmp_path / "state", language_steps=2, vision_steps=2, joint_steps=2)
    drawn = [*range(40_000_000, 40_000_000 + RECIPE.held_out)]
    real = pretraining.look
    monkeypatch.setattr(pretraining, "look", lambda *args: drawn.append(args[-1]) or real(*args))
    collections.deque(run.run(), maxlen=0)
    assert len(drawn) == RECIPE.held_out + 3 * 2 * 2
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("name", bases.TINY)
def test_where_the_options_end(name):
    vlm = bases.build(name, 0)
    seen = pretraining.look(vlm, 7, 1)
    options = ["a red circle", "a red ring", "a blue circle", "a red star"]
    tokens = vlm.tokenize(vlm.question(options, "B"), seen.encoded.grid)
    ends = pretraining.option_ends(vlm, tokens, options)
    assert [vlm.tokenizer.decode(tokens.ids[end]).strip() for end in ends] == ["circle", "ring", "circle", "star"]
    assert (ends.diff() > 0).all()
    assert ends[-1] < tokens.answer[0]


def words(option: str, vocabulary: tuple[str, ...]) -> str:
    (found,) = set(option.split()) & set(vocabulary)
    return found


@pytest.mark.parametrize("rich", [False, True])
def test_exactly_one_option_is_true(rich):
    labels = collections.Counter()
    mixed = 0
    for scene_id in range(25):
        things = scenes.draw(7, scene_id).things
        here = {(thing.colour, thing.shape) for thing in things}
        for draw in range(16):
            options, label = draw_question(np.random.default_rng([scene_id, draw]), things, rich)
            assert len(set(options)) == 4
            assert options[label] in {thing.rich if rich else thing.plain for thing in things}
            for index, option in enumerate(options):
                colour, shape = words(option, scenes.COLOURS), words(option, scenes.SHAPES)
                assert ((colour, shape) in here) == (index == label)
                assert len(option.split()) == (5 if rich else 3)
                colours, shapes = ({getattr(thing, a) for thing in things} for a in ("colour", "shape"))
                mixed += index != label and colour in colours and shape in shapes
            labels[label] += 1
    # 400 questions: each place expected 100 times with a standard deviation of 8.7.
    assert all(70 <= labels[label] <= 130 for label in range(4))
    assert mixed > 50  # only who binds colour and shape can tell


@pytest.mark.parametrize("rich", [False, True])
def test_contrasting_options_differ_from_the_truth_in_a_word(rich):
    groups = (scenes.TEXTURES, scenes.COLOURS, scenes.SHAPES, scenes.VERTICALS, scenes.HORIZONTALS)
    changed = set()
    for scene_id in range(25):
        things = scenes.draw(7, scene_id).things
        true_here = {thing.rich if rich else thing.plain for thing in things}
        for draw in range(8):
            options, label = draw_contrast(np.random.default_rng([scene_id, draw]), things, rich)
            assert len(set(options)) == 4
            assert [index for index, option in enumerate(options) if option in true_here] == [label]
            for option in options[:label] + options[label + 1 :]:
                pairs = zip(option.split(), options[label].split(), strict=True)
                ((other, word),) = [(a, b) for a, b in pairs if a != b]
                (group,) = [group for group in groups if word in group]
                assert other in group
                changed.add(group)
    assert changed == set(groups if rich else (scenes.COLOURS, scenes.SHAPES))


def test_contrast_belongs_to_the_joint_phase(tmp_path, monkeypatch):
    run = prepare(tmp_path / "state")
    shares = []
    real = pretraining.converse
    monkeypatch.setattr(pretraining, "converse", lambda *args: shares.append(args[-1]) or real(*args))
    for phase in ("language", "joint"):
        run.loss(phase, 0)
    assert shares == [0.0, 0.0, pretraining.CONTRAST_SHARE, pretraining.CONTRAST_SHARE]  # two scenes a batch


@pytest.mark.parametrize("contrast", [0.0, 1.0])
def test_conversations_say_what_is_there(contrast):
    vlm = bases.build("tiny-smolvlm", 0)
    seen = pretraining.look(vlm, 7, 1)
    true = {phrase for thing in seen.things for phrase in (thing.plain, thing.rich)}
    for seed in range(5):
        talk = pretraining.converse(vlm, seen, np.random.default_rng(seed), 3, contrast)
        assert len(talk.captions) == len(seen.things)
        assert len(talk.questions) == 3
        assert all(target(vlm, tokens) in true for tokens in talk.captions)
        for question in talk.questions:
            label = target(vlm, question.tokens)
            assert label == "ABCD"[question.label]
            prompt = vlm.tokenizer.decode(question.tokens.ids[: question.tokens.prompt_length])
            options = dict(zip("ABCD", split_options(prompt), strict=True))
            assert options[label] in true
            assert not {o for name, o in options.items() if name != label} & true


def target(vlm, tokens) -> str:
    return vlm.tokenizer.decode(tokens.ids[tokens.target]).strip()


def split_options(prompt: str) -> list[str]:
    listed = prompt.split("A) ")[1].split("<")[0]
    for name in "BCD":
        listed = listed.replace(f" {name}) ", "|")
    return [option.strip() for option in listed.split("|")]


def test_the_loss_is_that_of_one_conversation_at_a_time():
    vlm = bases.build("tiny-paligemma2", 0)
    torch.manual_seed(0)
    probes = pretraining.Probes(vlm.text_config.hidden_size)
    seen = [pretraining.look(vlm, 7, scene_id) for scene_id in (1, 2)]
    talks = [pretraining.converse(vlm, scene, np.random.default_rng(0), 2, 0.0) for scene in seen]
    captions, labels, ends, judged = [], [], [], []
    with torch.no_grad():
        features = vlm.image_features([scene.encoded for scene in seen])
        found = pretraining.conversation_loss(vlm, probes, talks, features).item()
        for scene, talk in zip(seen, talks, strict=True):
            for index, tokens in enumerate(talk.conversations):
                logs = obvious.log_probabilities(vlm, tokens, scene.encoded)
                nll = [-float(logs[t - 1, tokens.ids[t]]) for t in tokens.answer]
                if index < len(talk.captions):
                    captions += nll
                    continue
                labels.append(nll[0])
                ends += nll[1:]
                question = talk.questions[index - len(talk.captions)]
                inputs = vlm.native_inputs(tokens, scene.encoded)
                # The states before the first layer come first.
                states = vlm.model(**inputs, output_hidden_states=True).hidden_states[pretraining.JUDGED_LAYER + 1]
                for option, end in enumerate(question.ends):
                    chance = torch.sigmoid(probes.truth(states[0, end]))[0]
                    judged.append(-float(torch.log(chance if option == question.label else 1 - chance)))
    expected = np.mean(captions) + np.mean(labels) + pretraining.END_WEIGHT * np.mean(ends) + np.mean(judged)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", bases.TINY)
def test_figures_equal_one_conversation_at_a_time(name):
    vlm = bases.build(name, 0)
    seen = [pretraining.look(vlm, 7, scene_id) for scene_id in (1, 2)]
    with torch.no_grad():
        features = vlm.image_features([scene.encoded for scene in seen])
    found = pretraining.evaluate(vlm, seen, features, 5)
    nll, right = [], []
    for index, scene in enumerate(seen):
        for thing in scene.things:
            tokens = vlm.tokenize(vlm.caption(thing.plain), scene.encoded.grid)
            logs = obvious.log_probabilities(vlm, tokens, scene.encoded)
            nll += [-float(logs[t - 1, tokens.ids[t]]) for t in tokens.target]
        options, label = draw_question(np.random.default_rng([5, index]), scene.things, rich=True)
        chances = []
        for name_of_option in OPTION_LABELS:
            tokens = vlm.tokenize(vlm.question(options, name_of_option), scene.encoded.grid)
            (place,) = tokens.target.tolist()
            logs = obvious.log_probabilities(vlm, tokens, scene.encoded)
            chances.append(float(logs[place - 1, tokens.ids[place]]))
        right.append(int(np.argmax(chances)) == label)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(nll)), rel=1e-3)
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_the_losses_of_seeing_by_hand():
    """Every attribute read from the tokens on an object, the colour a little from all of them."""
    vlm = bases.build("tiny-smolvlm", 0)
    torch.manual_seed(0)
    probes = pretraining.Probes(vlm.text_config.hidden_size)
    seen = [pretraining.look(vlm, 7, scene_id) for scene_id in (1, 2)]
    features = [torch.randn(scene.encoded.grid.tokens, 96) for scene in seen]
    expected = 0.0
    with torch.no_grad():
        for name, reader in probes.attributes.items():
            on_object, everywhere, right = [], [], []
            for rows, scene in zip(features, seen, strict=True):
                for row, truth, colour in zip(rows, scene.shown[name], scene.shown["colour"], strict=True):
                    nll = -float(reader(row).log_softmax(0)[truth])
                    everywhere.append(nll)
                    if colour < len(scenes.COLOURS):
                        on_object.append(nll)
                        right.append(bool(reader(row).argmax() == truth))
            assert 0 < len(on_object) < len(everywhere)
            expected += np.mean(on_object) + (pretraining.BACKGROUND_WEIGHT * np.mean(everywhere)) * (name == "colour")
            assert probes.accuracy(features, seen)[name] == pytest.approx(np.mean(right))
        assert float(probes.reading_loss(features, seen)) == pytest.approx(expected, abs=1e-4)


def test_the_loss_of_emitting_is_a_share_of_the_variance():
    wanted = [torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0]])]  # variance 4 / 3
    features = [tensor + 1.0 for tensor in wanted]
    assert float(pretraining.emission_loss(features, wanted)) == pytest.approx(0.75)
    assert float(pretraining.emission_loss(wanted, wanted)) == 0


def test_muon_trains_the_matrices_of_hidden_layers(tmp_path):
    run = prepare(tmp_path / "state", "tiny-qwen2-vl")
    muon, adam = run._optimizers(run._parameters("joint"), 1e-3)
    names = {id(p): k for k, p in run._parameters("joint").items()}
    by_muon, by_adam = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]} for optimizer in (muon, adam)
    )
    assert by_muon | by_adam == set(names.values())
    assert not by_muon & by_adam
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in by_muon
    assert "model.visual.merger.mlp.0.weight" in by_muon
    assert "model.language_model.embed_tokens.weight" in by_adam
    assert {"probes.truth.weight", "probes.attributes.shape.weight"} <= by_adam
    assert not any("norm" in name or name.endswith("bias") for name in by_muon)
