"""The page that shows where heads look, in a real browser: by click and by keys, narrow and dark, from a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import peft
import pytest
from browser import Opened, chromium, opened

import headimpact
from headimpact.data import scenes
from headimpact.data.samples import Sample
from headimpact.impact.head_impact import Impact

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "</script><img src=x onerror=alert(1)> red star"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    drawn = [scenes.draw(0, number) for number in (1, 2)]
    described = [[(thing.mask, thing.rich) for thing in scene.things] for scene in drawn]
    described[0][1] = (described[0][1][0], HOSTILE)
    return headimpact.make_samples([(scene.image, objects) for scene, objects in zip(drawn, described, strict=True)])


@pytest.fixture(scope="module")
def scored(samples: list[Sample], project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Impact, Path]:
    """The IoU that score finds, and the page of an adapter beside the original."""
    base = headimpact.load_base(project_root / "models/bases/tiny-smolvlm", device="cpu", dtype="float32")
    impact = headimpact.score(base, samples)
    config = headimpact.lora_config(base, headimpact.select("top-1", impact))
    config.init_lora_weights = False
    peft.get_peft_model(base.model, config)
    return impact, headimpact.look(base, samples).save(tmp_path_factory.mktemp("look") / "look.html")


@pytest.fixture
def look(browser: "Browser", scored: tuple[Impact, Path]) -> Iterator[Opened]:
    with opened(browser, scored[1], color_scheme="dark") as found:
        yield found
        assert found.complaints == []
        assert found.requests == [scored[1].as_uri()]


def shows(look: Opened, title: str) -> float:
    """Waits until something is shown; the IoU of the original."""
    look.page.wait_for_selector(f'body[data-shown="{title}"]')
    text = look.page.locator(".iou").first.text_content()
    exact = float(look.page.locator(".iou").first.get_attribute("data-iou") or "nan")
    assert text == f"{exact:.3f}"
    return exact


def test_heads_are_chosen_by_click_and_by_keys_and_their_iou_is_that_of_the_table(
    look: Opened, scored: tuple[Impact, Path], samples: list[Sample]
) -> None:
    impact, _ = scored
    phrases = [obj.phrase for sample in samples for obj in sample.objects]
    best = np.unravel_index(impact.hi.argmax(), impact.hi.shape)
    assert shows(look, f"Layer {best[0]}, head {best[1]}, reading “{phrases[0]}”") == impact.iou[0][best]
    look.page.locator('[data-layer="3"][data-head="2"]').click()
    assert shows(look, f"Layer 3, head 2, reading “{phrases[0]}”") == impact.iou[0, 3, 2]
    cell = look.page.locator('[data-layer="3"][data-head="2"]')
    assert cell.get_attribute("aria-label") == f"layer 3, head 2: HI {impact.hi[3, 2]:.3f}"
    look.page.keyboard.press("ArrowDown")
    look.page.keyboard.press("ArrowRight")
    assert shows(look, f"Layer 4, head 3, reading “{phrases[0]}”") == impact.iou[0, 4, 3]
    look.page.keyboard.press("Home")
    shows(look, f"Layer 4, reading “{phrases[0]}”")
    look.page.get_by_role("button", name="Top 8 heads together").click()
    shows(look, f"The top 8 heads together, reading “{phrases[0]}”")
    assert look.page.get_by_role("radio", name="the whole phrase").is_disabled()


def test_objects_tokens_and_images_are_chosen_by_keys(
    look: Opened, scored: tuple[Impact, Path], samples: list[Sample]
) -> None:
    impact, _ = scored
    look.page.locator('[data-layer="3"][data-head="2"]').click()
    first, hostile = (obj.phrase for obj in samples[0].objects[:2])
    shows(look, f"Layer 3, head 2, reading “{first}”")
    look.page.get_by_role("radio", name="the whole phrase").focus()
    look.page.keyboard.press("ArrowRight")
    shows(look, f"Layer 3, head 2, reading “{first.split()[0]}” of “{first}”")
    look.page.get_by_role("radio", name=first, exact=True).focus()
    look.page.keyboard.press("ArrowRight")
    shown = shows(look, f"Layer 3, head 2, reading “{hostile}”")
    assert shown == impact.iou[1, 3, 2]
    look.page.get_by_role("radio", name=f"image {samples[0].id}").focus()
    look.page.keyboard.press("ArrowRight")
    count = len(samples[0].objects)
    assert shows(look, f"Layer 3, head 2, reading “{samples[1].objects[0].phrase}”") == impact.iou[count, 3, 2]
    best = look.page.locator("#extremes-strip .tile small").first.text_content()
    assert best == f"{impact.iou[:, 3, 2].max():.3f}"


def test_it_fits_a_phone_and_a_link_leads_to_what_was_chosen(
    browser: "Browser", scored: tuple[Impact, Path], samples: list[Sample]
) -> None:
    with opened(browser, f"{scored[1].as_uri()}#image=1&object=0&layer=2&head=99", width=400) as look:
        shows(look, f"Layer 2, head 0, reading “{samples[1].objects[0].phrase}”")
        assert look.page.evaluate("location.hash") == "#image=1&object=0&layer=2&head=99"
        look.page.locator('[data-layer="1"][data-head="6"]').click()
        shows(look, f"Layer 1, reading “{samples[1].objects[0].phrase}”")
        assert look.page.evaluate("location.hash") == "#image=1&object=0&piece=0&layer=1"
        assert look.overflow == 0
        assert look.page.locator(".variant h3").all_text_contents()[1].startswith("adapter")
        look.page.locator("#of").select_option(label="adapter minus original")
        assert "difference in HI" in (
            look.page.locator('[data-layer="0"][data-head="0"]').get_attribute("aria-label") or ""
        )
        assert look.complaints == []
