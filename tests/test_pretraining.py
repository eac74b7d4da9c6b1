"""Pretraining of the tiny bases: all phases run, what is killed goes on to the same bytes, no question lies."""

import collections
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import obvious
import pytest
import torch

from headimpact import bases, checkpoints, files, pretraining, scenes
from headimpact.pretraining import PHASES, Pretraining, Recipe, Record, draw_contrast, draw_question
from headimpact.vlm import OPTION_LABELS

RECIPE = Recipe(
    seed=7,
    pool=6,
    held_out=3,
    batch_images=2,
    vision_batch_images=2,
    questions=2,
    language_steps=3,
    vision_steps=2,
    joint_steps=3,
    contrast_step=2,
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
    assert set(parts) == {"decoder", "vision", "tables", "readers"}
    before = start
    for phase, trained in (
        ("language", {"decoder", "tables"}),
        ("vision", {"vision", "readers"}),
        ("joint", {"decoder", "vision", "readers"}),
    ):
        after = states[phase]
        moved = {part for key, part in zip(start, parts, strict=True) if not torch.equal(before[key], after[key])}
        assert moved == trained
        before = after


def snapshot(run: Pretraining) -> dict[str, torch.Tensor]:
    model = {f"model.{k}": p.detach().clone() for k, p in run.vlm.model.named_parameters()}
    return model | {f"oracle.{k}": p.detach().clone() for k, p in run.oracle.named_parameters()}


def part_of(run: Pretraining, key: str) -> str:
    owner, name = key.split(".", 1)
    if owner == "oracle":
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
    said, seen = {"accuracy", "perplexity"}, {"colour", "shape", "texture"}
    assert measured == {
        ("language", 2): said,
        ("language", 3): said,
        ("vision", 2): said | seen,
        ("joint", 2): said | seen,
        ("joint", 3): said | seen,
    }
    shares = [r.value for r in history if r.metric not in ("loss", "perplexity")]
    assert all(0 <= value <= 1 for value in shares)


# Records: language 1 + 3 + 3, vision 1 + 6, joint 1 + 6 + 6; a checkpoint behind the second step of each phase.
@pytest.mark.parametrize(
    ("killed_after", "saved", "goes_on_with"),
    [
        ([2], None, ("language", 0)),  # before the first checkpoint
        ([8], ("language", 2), ("language", 2)),  # in the next phase, whose first checkpoint is not there yet
        ([15], ("vision", 2), ("joint", 0)),  # between two phases
        ([5, 15, 23], ("joint", 2), ("joint", 2)),  # again and again
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
    kill_after(prepare(tmp_path / "state", language_lr=1e-2), 15)
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
        assert len(seen.colour) == len(seen.shape) == len(seen.texture) == seen.encoded.grid.tokens
        covered = torch.stack([vlm.coverages([thing.mask])[0] for thing in scene.things]).numpy()
        for token in range(seen.encoded.grid.tokens):
            thing = scene.things[covered[:, token].argmax()]
            shown = covered[:, token].max() >= pretraining.SEEN_THRESHOLD
            for names, attribute in (
                (scenes.COLOURS, "colour"),
                (scenes.SHAPES, "shape"),
                (scenes.TEXTURES, "texture"),
            ):
                expected = names.index(getattr(thing, attribute)) if shown else len(names)
                assert getattr(seen, attribute)[token] == expected
        assert (seen.colour < len(scenes.COLOURS)).any()


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


def test_contrast_begins_at_its_step_of_the_joint_phase(tmp_path, monkeypatch):
    run = prepare(tmp_path / "state", joint_steps=4)
    shares = []
    real = pretraining.converse
    monkeypatch.setattr(pretraining, "converse", lambda *args: shares.append(args[-1]) or real(*args))
    for phase in ("language", "joint"):
        for step in range(4):
            run.loss(phase, step)
    assert shares[::2] == shares[1::2]  # two scenes a batch
    assert shares[::2] == [0, 0, 0, 0, 0, 0, *[pretraining.CONTRAST_SHARE] * 2]


@pytest.mark.parametrize("contrast", [0.0, 1.0])
def test_conversations_say_what_is_there(contrast):
    vlm = bases.build("tiny-smolvlm", 0)
    seen = pretraining.look(vlm, 7, 1)
    true = {phrase for thing in seen.things for phrase in (thing.plain, thing.rich)}
    for seed in range(5):
        captions, asked = pretraining.converse(vlm, seen, np.random.default_rng(seed), 3, contrast)
        assert len(captions) == len(seen.things)
        assert len(asked) == 3
        assert all(target(vlm, tokens) in true for tokens in captions)
        for tokens in asked:
            label = target(vlm, tokens)
            prompt = vlm.tokenizer.decode(tokens.ids[: tokens.prompt_length])
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
    seen = [pretraining.look(vlm, 7, scene_id) for scene_id in (1, 2)]
    talks = [pretraining.converse(vlm, scene, np.random.default_rng(0), 2, 0.0) for scene in seen]
    with torch.no_grad():
        features = vlm.image_features([scene.encoded for scene in seen])
        found = pretraining.conversation_loss(vlm, talks, features).item()
    captions, labels, ends = [], [], []
    for scene, talk in zip(seen, talks, strict=True):
        for kind, conversations in enumerate(talk):
            for tokens in conversations:
                logs = obvious.log_probabilities(vlm, tokens, scene.encoded)
                nll = [-float(logs[t - 1, tokens.ids[t]]) for t in tokens.answer]
                if kind == 0:
                    captions += nll
                else:
                    labels.append(nll[0])
                    ends += nll[1:]
    expected = np.mean(captions) + np.mean(labels) + 0.1 * np.mean(ends)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", bases.TINY)
def test_figures_equal_one_conversation_at_a_time(name):
    vlm = bases.build(name, 0)
    seen = [pretraining.look(vlm, 7, scene_id) for scene_id in (1, 2)]
    found = pretraining.evaluate(vlm, seen, 5, None)
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


def test_the_oracles_losses_by_hand():
    """A squared distance of 1 everywhere, and the reading of every token, or of those on an object."""
    vlm = bases.build("tiny-smolvlm", 0)
    torch.manual_seed(0)
    oracle = pretraining.Oracle(vlm.text_config.hidden_size)
    seen = [pretraining.look(vlm, 7, scene_id) for scene_id in (1, 2)]
    with torch.no_grad():
        embedded = [oracle.embed(scene) for scene in seen]
        assert [tuple(e.shape) for e in embedded] == [(s.encoded.grid.tokens, 96) for s in seen]
        features = [e + 1.0 for e in embedded]
        found, on_object = oracle.loss(features, seen), oracle.object_loss(features, seen)
        read: dict[str, list[list[float]]] = {"all": [], "object": []}
        for name, reader in oracle.readers.items():
            for tokens in read.values():
                tokens.append([])
            for rows, scene in zip(features, seen, strict=True):
                for row, truth, colour in zip(rows, getattr(scene, name), scene.colour, strict=True):
                    nll = -float(reader(row).log_softmax(0)[truth])
                    read["all"][-1].append(nll)
                    if colour < len(scenes.COLOURS):
                        read["object"][-1].append(nll)
    assert float(found) == pytest.approx(1.0 + sum(map(np.mean, read["all"])), abs=1e-4)
    assert float(on_object) == pytest.approx(sum(map(np.mean, read["object"])), abs=1e-4)
    assert 0 < len(read["object"][0]) < len(read["all"][0])
