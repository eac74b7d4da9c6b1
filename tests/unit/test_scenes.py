"""Generated scenes: the same everywhere, and showing what their masks and phrases say."""

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, binary_erosion

from headimpact.data import scenes

SAMPLES = 150


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    return [scenes.draw(7, scene_id) for scene_id in range(SAMPLES)]


def all_things(drawn: list[scenes.Scene]) -> list[tuple[np.ndarray, scenes.Thing]]:
    return [(np.asarray(scene.image), thing) for scene in drawn for thing in scene.things]


def fingerprint(scene: scenes.Scene) -> bytes:
    masks = b"".join(thing.mask.tobytes() for thing in scene.things)
    words = "|".join(f"{thing.plain}|{thing.rich}" for thing in scene.things)
    return f"{scene.id}|{scene.image.size}|{words}".encode() + scene.image.tobytes() + masks


def test_the_same_arguments_draw_the_same_scene_and_others_another():
    assert fingerprint(scenes.draw(3, 5)) == fingerprint(scenes.draw(3, 5))
    assert scenes.draw(3, 5).image.tobytes() != scenes.draw(3, 6).image.tobytes()
    assert scenes.draw(3, 5).image.tobytes() != scenes.draw(4, 5).image.tobytes()


def test_scenes_are_what_they_were_when_the_tiny_bases_were_pretrained():
    digest = hashlib.sha256(b"".join(fingerprint(scenes.draw(0, scene_id)) for scene_id in range(40)))
    assert digest.hexdigest() == "f52c5f6f3332f4b5c657cb8802ffc3d324db496dba90ae9458e478e97e4dea2a"


def test_images_are_small_in_every_orientation(drawn):
    sizes = {scene.image.size for scene in drawn}
    assert sizes == set(scenes.SIZES)
    assert {np.sign(width - height) for width, height in sizes} == {-1, 0, 1}
    assert all(scene.image.mode == "RGB" for scene in drawn)
    assert all(thing.mask.shape == image.shape[:2] for image, thing in all_things(drawn))


def test_every_word_of_the_vocabularies_is_drawn(drawn):
    things = [thing for _, thing in all_things(drawn)]
    assert {thing.shape for thing in things} == set(scenes.SHAPES)
    assert {thing.colour for thing in things} == set(scenes.COLOURS)
    assert {thing.texture for thing in things} == set(scenes.TEXTURES)
    assert {thing.position for thing in things} == {f"{v} {h}" for v in scenes.VERTICALS for h in scenes.HORIZONTALS}
    assert {len(scene.things) for scene in drawn} == {1, 2, 3, 4}


def test_vocabularies_are_single_different_lower_case_words():
    groups = (scenes.SHAPES, scenes.COLOURS, scenes.TEXTURES, scenes.VERTICALS, scenes.HORIZONTALS)
    words = [word for group in groups for word in group]
    assert all(word.isalpha() and word.islower() for word in words)
    assert len(set(words)) == len(words)


def test_phrases():
    thing = scenes.Thing("circle", "red", "striped", "upper left", np.ones((3, 3), dtype=bool))
    assert thing.plain == "a red circle"
    assert thing.rich == "striped red circle upper left"


def test_phrases_are_unique_in_their_scene(drawn):
    for scene in drawn:
        assert len({thing.plain for thing in scene.things}) == len(scene.things)


@pytest.mark.parametrize(
    ("rows", "cols", "words"),
    [
        (slice(0, 1), slice(0, 1), "upper left"),
        (slice(0, 3), slice(0, 3), "upper left"),
        (slice(3, 4), slice(5, 6), "middle center"),
        (slice(2, 4), slice(5, 7), "middle right"),  # centroids exactly on the borders: one third, two thirds
        (slice(0, 9), slice(0, 9), "middle center"),
        (slice(6, 9), slice(3, 5), "lower center"),
        (slice(8, 9), slice(8, 9), "lower right"),
    ],
)
def test_position_is_the_third_in_which_the_centroid_lies(rows, cols, words):
    mask = np.zeros((9, 9), dtype=bool)
    mask[rows, cols] = True
    assert scenes.position(mask) == words


def test_position_words_agree_with_the_visible_mask(drawn):
    for _, thing in all_things(drawn):
        y, x = (np.argwhere(thing.mask) + 0.5).mean(axis=0) / thing.mask.shape * 3
        vertical, horizontal = thing.position.split()
        assert scenes.VERTICALS.index(vertical) == int(y)
        assert scenes.HORIZONTALS.index(horizontal) == int(x)


def test_colour_under_the_mask_is_the_named_one(drawn):
    palette = np.array(list(scenes.PALETTE.values()))
    for image, thing in all_things(drawn):
        seen = np.median(image[thing.mask], axis=0)
        nearest = np.linalg.norm(palette - seen, axis=1).argmin()
        assert scenes.COLOURS[nearest] == thing.colour


def test_texture_is_a_pattern_or_none(drawn):
    for image, thing in all_things(drawn):
        inner = image[binary_erosion(thing.mask, iterations=2)].astype(int).sum(axis=1)
        if thing.texture == "solid":
            assert np.ptp(inner) == 0
        else:
            assert np.ptp(inner) > 90


def test_backgrounds_are_greyish_and_cluttered(monkeypatch):
    monkeypatch.setattr(scenes, "_cast", lambda rng, side: [])
    for scene_id in range(30):
        pixels = np.asarray(scenes.draw(0, scene_id).image).astype(int)
        assert np.ptp(pixels, axis=2).max() < 60
        assert pixels.std() > 5
        assert 20 < pixels.min() < pixels.max() < 235


def test_masks_are_exactly_the_pixels_that_show_the_things(monkeypatch):
    scene_ids = range(40)
    whole = [scenes.draw(0, scene_id) for scene_id in scene_ids]
    monkeypatch.setattr(scenes, "_cast", lambda rng, side: [])
    for scene, scene_id in zip(whole, scene_ids, strict=True):
        bare = np.asarray(scenes.draw(0, scene_id).image)
        changed = (np.asarray(scene.image) != bare).any(axis=2)
        covered = np.sum([thing.mask for thing in scene.things], axis=0)
        assert covered.max() == 1
        # Edges are smooth: beyond the mask lie pixels that are covered by less than half.
        assert not (changed & ~binary_dilation(covered > 0, np.ones((5, 5)))).any()
        assert (changed & (covered == 0)).sum() < 0.2 * covered.sum()
        assert changed[covered > 0].mean() > 0.999


def test_every_thing_stays_mostly_visible_though_some_are_hidden_in_part(monkeypatch):
    find_place = scenes._find_place
    full: list[int] = []

    def remember(rng, shape, *others):
        corner = find_place(rng, shape, *others)
        full.extend([] if corner is None else [int(shape.sum())])
        return corner

    monkeypatch.setattr(scenes, "_find_place", remember)
    seen = [thing.mask.sum() for scene_id in range(SAMPLES) for thing in scenes.draw(1, scene_id).things]
    shares = np.array(seen) / np.array(full)
    assert shares.min() >= 0.6
    assert shares.max() == 1
    assert 0.1 < (shares < 1).mean() < 0.9


def polygon(shape: str, r: float) -> list[tuple[float, float]]:
    """The same shapes by their corners."""

    def around(radii: list[float], start: float) -> list[tuple[float, float]]:
        angles = np.deg2rad(start + 360 / len(radii) * np.arange(len(radii)))
        return [(float(a * np.cos(t)), float(a * np.sin(t))) for a, t in zip(radii, angles, strict=True)]

    arm = 0.3 * r
    corners = [(-arm, -r), (arm, -r), (arm, -arm), (r, -arm), (r, arm), (arm, arm)]
    return {
        "circle": around([r] * 90, 0),
        "square": around([r * 2**0.5] * 4, 45),
        "triangle": around([r] * 3, -90),
        "cross": corners + [(-x, -y) for x, y in corners],
        "star": around([r, r * 0.382] * 5, -90),
        "ring": around([r] * 90, 0),
    }[shape]


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_shapes_agree_with_polygons(shape):
    r, half = 150, 250
    axis = np.arange(-half, half + 1, dtype=np.int32)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    canvas = Image.new("1", (2 * half + 1, 2 * half + 1))
    pencil = ImageDraw.Draw(canvas)
    pencil.polygon([(x + half, y + half) for x, y in polygon(shape, r)], fill=1)
    if shape == "ring":
        pencil.polygon([(x + half, y + half) for x, y in polygon("circle", r / 3**0.5)], fill=0)
    expected, found = np.asarray(canvas), scenes._inside(shape, u, v, r)
    assert (expected & found).sum() / (expected | found).sum() > 0.95


def test_a_thing_covers_several_visual_tokens(drawn):
    for image, thing in all_things(drawn):
        height, width = image.shape[:2]
        squashed_area = thing.mask.sum() * 112 * 112 / (height * width)
        assert squashed_area > 14 * 14
