"""What the setups of a model say, image by image, beside each other: one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from matplotlib import colormaps
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from headimpact.data.samples import Sample
from headimpact.report.page import Cell, Document, Picture, Section, Table, Text
from headimpact.report.page.as_html import to_html
from headimpact.report.prose import answers as prose

_SIDE = 320  # pixels of a picture's longer edge
_COLOURS = [tuple(int(255 * part) for part in colour) for colour in colormaps["tab10"].colors]  # pyright: ignore


def html(title: str, samples: Sequence[Sample], generated: Mapping[str, pd.DataFrame]) -> str:
    """The page, with everything in it.

    Args:
        title: its title.
        samples: images that all of ``generated`` are about.
        generated: by setup the rows of ``answers.answer_images``.
    """
    with TemporaryDirectory() as folder:
        sections = [_section(sample, generated, Path(folder)) for sample in samples]
        about = Section("How to read this", [Text(prose.GALLERY), Text(_asked(next(iter(generated.values()))))])
        return to_html(Document(title, [about, *sections]))


def _asked(generated: pd.DataFrame) -> str:
    prompts = generated.drop_duplicates("kind").set_index("kind")["prompt"]
    return "Prompts: " + "; ".join(f"{kind}: {prompt}" for kind, prompt in prompts.items()) + "."


def _section(sample: Sample, generated: Mapping[str, pd.DataFrame], folder: Path) -> Section:
    path = folder / f"{sample.id}.jpg"
    outlined(sample).save(path, quality=85, subsampling=0)
    answers = {setup: table[table["image_id"] == sample.id] for setup, table in generated.items()}
    rows = [
        [Cell(f"whole picture, {kind}"), Cell(""), *(_nearest(table, kind) for table in answers.values())]
        for kind in ("caption", "question")
    ]
    for number, obj in enumerate(sample.objects, 1):
        cells = [_cutout(table, obj.id) for table in answers.values()]
        rows.append([Cell(f"cut-out {number}"), Cell(obj.phrase), *cells])
    columns = ["asked about", "phrase", *answers]
    return Section(f"Image {sample.id}", [Picture(path, f"image {sample.id}"), Table(columns, rows)])


def _cutout(table: pd.DataFrame, object_id: int) -> Cell:
    """The answer about one object, cut out."""
    return _cell(table[(table["object_id"] == object_id) & (table["kind"] == "cutout")].iloc[0])


def _nearest(table: pd.DataFrame, kind: str) -> Cell:
    """The answer about the whole image, with the score of the phrase that it is nearest to."""
    rows = table[table["kind"] == kind]
    number = int(rows["f1"].to_numpy().argmax())
    return _cell(rows.iloc[number], f", {number + 1}")


def _cell(row: pd.Series, which: str = "") -> Cell:
    return Cell(row["answer"], f"F1 {row['f1']:.2f}{which}", strong=bool(row["exact_match"] == 1))


def outlined(sample: Sample) -> Image.Image:
    """The image, small, with the outline and the number (from 1) of every object."""
    picture = sample.image()
    picture.thumbnail((_SIDE, _SIDE))
    places = []
    for index, obj in enumerate(sample.objects):
        colour = _COLOURS[index % len(_COLOURS)]
        mask = Image.fromarray(obj.mask()).resize(picture.size, Image.Resampling.NEAREST).convert("L")
        # On white, so that it shows on any ground.
        picture.paste("white", mask=_ring(mask, 3))
        picture.paste(colour, mask=_ring(mask, 2))
        rows, cols = np.nonzero(np.asarray(mask))
        places.append((colour, int(cols.mean()) if len(cols) else 0, int(rows.mean()) if len(rows) else 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for number, (colour, x, y) in enumerate(places, 1):
        draw.text((x, y), str(number), colour, font, anchor="mm", stroke_width=3, stroke_fill="white")
    return picture


def _ring(mask: Image.Image, width: int) -> Image.Image:
    """The pixels around a mask, up to ``width`` pixels away."""
    return ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(2 * width + 1)), mask)
