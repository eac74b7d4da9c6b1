import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import toy_models
from transformers import Florence2Processor

from headimpact.data import annotators, grounding
from headimpact.data.grounding import Grounder
from headimpact.data.lines import Captioned, Grounded, Phrase, read
from headimpact.errors import InputError
from headimpact.processes import Processes

ALONE = Processes()


@pytest.fixture(scope="module")
def grounder(florence: Path) -> Grounder:
    return grounding.load(str(florence), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve images, of which one is cut short and one is missing."""
    folder = tmp_path_factory.mktemp("data") / "download"
    toy_models.write_captions(folder, 12, broken=(5,))
    (folder / "images" / "000009.png").unlink()
    return folder


def run(folder: Path, output: Path, grounder: Grounder, group_images: int = 4, processes=ALONE):
    """Ground the captions of a folder; the account, where this process wrote the output."""
    source, images = folder / "captions.jsonl", folder / "images"
    first = annotators.annotate(grounder, source, images, output, group_images, processes)
    return grounding.account(output) if first else None


@pytest.fixture(scope="module")
def grounded(folder, grounder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ground") / "phrases.jsonl"
    run(folder, path, grounder)
    return path


def taught(line: Captioned) -> list[tuple[str, tuple[float, ...]]]:
    """The phrases and boxes that the toy has learnt to answer, in pixels."""
    phrases = []
    for part in toy_models.answer(line.caption).replace(">", "").split("<loc_"):
        if part.isdigit() or part[:1].isdigit():
            digits = "".join(character for character in part if character.isdigit())
            phrases[-1][1].append(int(digits))
            if part[len(digits) :]:
                phrases.append((part[len(digits) :], []))
        else:
            phrases.append((part, []))
    sides = (line.width, line.height) * 2
    return [
        (phrase, tuple(round((bins[i + j] + 0.5) * sides[j] / 1000, 2) for j in range(4)))
        for phrase, bins in phrases
        for i in range(0, len(bins), 4)
    ]


def test_phrases_and_boxes_are_what_the_model_answers(folder, grounded):
    captions = read(folder / "captions.jsonl", Captioned)
    right = 0
    for line, captioned in zip(read(grounded, Grounded), captions, strict=True):
        assert line.model_dump(include=set(Captioned.model_fields)) == captioned.model_dump()
        right += [(phrase.phrase, phrase.box) for phrase in line.phrases] == taught(captioned)
        for phrase in line.phrases:
            left, top, right_side, bottom = phrase.box
            assert 0 <= left <= right_side <= line.width
            assert 0 <= top <= bottom <= line.height
    assert right >= 8


def test_lines_are_as_the_layout_says(grounded):
    line = json.loads(grounded.read_text().splitlines()[0])
    assert list(line)[-2:] == ["caption", "phrases"]
    assert list(line["phrases"][0]) == ["phrase", "box"]


def test_an_image_that_cannot_be_read_is_recorded_with_its_reason_and_counted(grounded, folder):
    account = grounding.account(grounded)
    assert account.images == 12
    assert account.without == 0
    assert account.boxes > account.phrases >= 18
    (cut, cut_reason), (missing, missing_reason) = account.errors
    assert (cut, missing) == (5, 9)
    assert cut_reason.startswith("000005.png is damaged or truncated")
    assert missing_reason.startswith("000009.png does not exist")
    assert str(folder) not in grounded.read_text()
    assert [line.phrases for line in read(grounded, Grounded) if line.error] == [(), ()]


def test_an_image_of_another_size_is_recorded(tmp_path, grounder):
    toy_models.write_captions(tmp_path / "in", 1)
    toy_models.image(2).save(tmp_path / "in" / "images" / "000001.png")
    account = run(tmp_path / "in", tmp_path / "out.jsonl", grounder)
    assert "its annotations are for" in account.errors[0][1]


@pytest.mark.parametrize("group_images", [1, 5, 12])
def test_the_bytes_do_not_depend_on_the_size_of_the_batches(folder, grounded, grounder, tmp_path, group_images):
    run(folder, tmp_path / "out.jsonl", grounder, group_images)
    assert (tmp_path / "out.jsonl").read_bytes() == grounded.read_bytes()


def test_the_bytes_do_not_depend_on_the_number_of_processes(folder, grounded, grounder, tmp_path):
    output = tmp_path / "out.jsonl"
    assert [run(folder, output, grounder, 4, Processes(rank, 3)) for rank in (2, 1)] == [None, None]
    assert run(folder, output, grounder, 4, Processes(0, 3)) == grounding.account(grounded)
    assert output.read_bytes() == grounded.read_bytes()


class KilledError(Exception):
    pass


class Dying(Grounder):
    def annotate(self, lines, images):
        if lines[0].image_id > 5:
            raise KilledError
        return super().annotate(lines, images)


def dying(grounder: Grounder) -> Dying:
    return Dying(grounder.model, grounder.processor, grounder.num_beams, grounder.max_new_tokens)


def test_a_build_that_broke_off_goes_on_and_ends_with_the_same_bytes(folder, grounded, grounder, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    with pytest.raises(KilledError):
        run(folder, output, dying(grounder))
    worked_on = []
    monkeypatch.setattr(
        Grounder, "_answers", lambda self, images, lines: worked_on.extend(lines) or ANSWERS(self, images, lines)
    )
    run(folder, output, grounder)
    assert [line.image_id for line in worked_on] == [10, 11, 12]
    assert output.read_bytes() == grounded.read_bytes()


ANSWERS = Grounder._answers


def test_other_settings_another_input_or_a_repaired_image_start_over(folder, grounder, tmp_path):
    inside = tmp_path / "in"
    shutil.copytree(folder, inside)
    output = tmp_path / "out.jsonl"

    def started() -> int:
        with pytest.raises(KilledError):
            run(inside, output, dying(dataclasses.replace(grounder, num_beams=beams)))
        return len(list((tmp_path / "out.jsonl.shards").iterdir()))

    beams = 3
    assert [started(), started()] == [1, 1]
    beams = 2
    assert started() == 2
    toy_models.image(9).save(inside / "images" / "000009.png")
    assert started() == 3
    captions = inside / "captions.jsonl"
    captions.write_text(captions.read_text().replace("circle", "square"))
    assert started() == 4


def test_captions_with_the_models_own_words_are_no_crash(tmp_path, grounder):
    toy_models.write_captions(tmp_path / "in", 6)
    lines = [json.loads(line) for line in (tmp_path / "in" / "captions.jsonl").read_text().splitlines()]
    hostile = ["<image><image>", "<OD>", "</s> <loc_5>", "<CAPTION_TO_PHRASE_GROUNDING>", "{input} {0}", "\u2028 é 狗"]
    for line, text in zip(lines, hostile, strict=True):
        line["caption"] = text
    (tmp_path / "in" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    account = run(tmp_path / "in", tmp_path / "out.jsonl", grounder)
    assert account.images == 6
    assert account.errors == ()


def test_a_caption_that_the_model_cannot_hold_is_recorded(tmp_path, grounder):
    captions = toy_models.write_captions(tmp_path / "in", 2)
    first, second = captions.read_text().splitlines()
    captions.write_text(first.replace(toy_models.caption(1), "狗" * 60) + "\n" + second + "\n")
    account = run(tmp_path / "in", tmp_path / "out.jsonl", grounder)
    assert account.errors == ((1, "the caption is too long for the model"),)
    assert account.boxes > 0


def test_an_image_without_a_phrase_is_kept(folder, grounder, tmp_path):
    silent = dataclasses.replace(grounder, max_new_tokens=1)
    account = run(folder, tmp_path / "out.jsonl", silent)
    assert (account.images, account.without, account.boxes, len(account.errors)) == (12, 10, 0, 2)
    assert '"phrases": []}' in (tmp_path / "out.jsonl").read_text().splitlines()[0]


def test_answers_are_read_as_florence_2_writes_them(grounder):
    line = Captioned(image_id=1, file_name="a", width=640, height=480, url="u", caption_id=1, caption="c")
    text = (
        "</s><s>A man<loc_0><loc_0><loc_999><loc_999><loc_500><loc_600><loc_400><loc_250>it<loc_1><loc_1><loc_2><loc_2>"
        " two dogs<loc_7><loc_7><loc_7><loc_7><loc_7><loc_7><loc_7><loc_7> and<loc_1><loc_2></s><pad>"
    )
    assert grounder._parse(text, line) == (
        Phrase(phrase="A man", box=(0.32, 0.24, 639.68, 479.76)),
        Phrase(phrase="A man", box=(256.32, 120.24, 320.32, 288.24)),
        Phrase(phrase="two dogs", box=(4.8, 3.6, 4.8, 3.6)),
    )
    assert grounder._parse("</s><s>nothing here</s>", line) == ()


def test_a_missing_or_damaged_file_of_captions_is_told(tmp_path, grounder):
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"captions\.jsonl does not exist"):
        run(tmp_path, tmp_path / "out.jsonl", grounder)
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1}\n')
    with pytest.raises(InputError, match="line 1: file_name: Field required"):
        run(tmp_path, tmp_path / "out.jsonl", grounder)


def test_it_runs_in_bfloat16_and_says_what_its_results_follow_from(folder, tmp_path, florence):
    grounder = grounding.load(str(florence), device="cpu", dtype="bfloat16")
    facts = grounder.facts()
    assert (facts["dtype"], facts["device"], facts["num_beams"]) == ("torch.bfloat16", "cpu", 3)
    assert facts["commit"] is None
    assert len(facts["weights"]) == 64
    assert run(folder, tmp_path / "out.jsonl", grounder).boxes > 0


def test_the_precision_fits_the_device(florence):
    facts = grounding.load(str(florence)).facts()
    assert (facts["device"], facts["dtype"]) in {("cpu", "torch.float32"), ("cuda", "torch.bfloat16")}


def test_a_checkpoint_with_settings_in_two_files_is_loaded(tmp_path, grounder, florence):
    copied = shutil.copytree(florence, tmp_path / "florence")
    settings = json.loads((copied / "processor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps(settings.pop("image_processor")))
    (copied / "processor_config.json").write_text(json.dumps(settings))
    processor = grounding.load(str(copied), device="cpu").processor
    assert processor.image_processor.size == grounder.processor.image_processor.size
    assert processor.num_image_tokens == grounder.processor.num_image_tokens
    assert processor.image_processor.backend == "pil"


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def of_another_kind(folder: Path) -> None:
    toy_models.untaught_sam().config.save_pretrained(folder)


def with_pickle_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_fewer_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.multi_modal_projector.image_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_weights_of_another_shape(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = "model.multi_modal_projector.image_projection.weight"
    weights[name] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "neither a folder here nor a hub name"),
        (lambda folder: without(folder, "config.json"), "is no checkpoint: it has no config.json"),
        (of_another_kind, "is a sam2 model; needed is florence2"),
        (with_pickle_alone, "holds no model.safetensors"),
        (with_fewer_weights, "lacks weights that Florence2ForConditionalGeneration has: model.multi_modal_projector"),
        (with_weights_of_another_shape, "cannot be loaded"),
        (with_cut_weights, "cannot be loaded"),
        (lambda folder: without(folder, "processor_config.json"), "has no image processor settings"),
        (lambda folder: without(folder, "tokenizer.json"), "has no tokenizer"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_told(tmp_path, damage, message, florence):
    copied = shutil.copytree(florence, tmp_path / "florence")
    damage(copied)
    with pytest.raises(InputError, match=message):
        grounding.load(str(copied), device="cpu")


def test_the_processor_needs_no_torchvision(grounder):
    assert isinstance(grounder.processor, Florence2Processor)
    assert grounder.processor.image_processor.backend == "pil"
