"""SAM 2: from boxes to masks with a confidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from transformers import Sam2Model
from transformers.image_processing_backends import PilBackend

from headimpact.data import annotators, masks
from headimpact.data.lines import Box, Grounded, Line, Rle, Segment, Segmented
from headimpact.errors import InputError


class _Pixels(PilBackend):
    """SAM 2's preparation of images on PIL: transformers has it on torchvision alone."""

    do_resize = do_rescale = do_normalize = do_convert_rgb = True
    resample = Image.Resampling.BILINEAR
    size = {"height": 1024, "width": 1024}  # noqa: RUF012 (the base class declares it so)
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Segmenter(annotators.Annotator):
    """SAM 2, ready to fill boxes."""

    reads: ClassVar[type[Line]] = Grounded

    pixels: _Pixels

    def annotate(self, lines: Sequence[Grounded], images: Path) -> list[Segmented]:
        """The masks of each image, one a box and in their order; an image that cannot be worked on says why."""
        with_boxes = [line for line in lines if line.phrases]
        opened, errors = annotators.open_images(with_boxes, images)
        usable = [line for line in with_boxes if line.image_id in opened]
        objects = self._objects(usable, [opened[line.image_id] for line in usable])
        return [
            Segmented(
                **line.model_dump(include=set(Line.model_fields)),
                objects=objects.get(line.image_id, ()),
                error=errors.get(line.image_id, line.error),
            )
            for line in lines
        ]

    @torch.inference_mode()
    def _objects(self, lines: Sequence[Grounded], images: Sequence[Image.Image]) -> dict[int, tuple[Segment, ...]]:
        if not lines:
            return {}
        network = self.model.network
        pixels = self.pixels(list(images), return_tensors="pt")["pixel_values"]
        embeddings = network.get_image_embeddings(pixels.to(network.device, network.dtype))
        # Images have different numbers of boxes, and SAM 2 cannot be given boxes that are none.
        return {
            line.image_id: self._masks(line, [level[index : index + 1] for level in embeddings])
            for index, line in enumerate(lines)
        }

    def _masks(self, line: Grounded, embeddings: list[Tensor]) -> tuple[Segment, ...]:
        boxes = torch.tensor([phrase.box for phrase in line.phrases]) * self._scale(line)
        output = self.model.network(
            image_embeddings=embeddings,
            input_boxes=boxes[None].to(self.model.network.device),
            multimask_output=True,
        )
        scores, best = output.iou_scores[0].float().cpu().max(dim=-1)
        if not scores.isfinite().all():
            raise InputError(
                f"SAM 2 gave no number for image {line.image_id} ({line.file_name}). Set compute.dtype to float32."
            )
        logits = output.pred_masks[0].float().cpu()[torch.arange(len(best)), best]
        return tuple(
            _segment(phrase.phrase, phrase.box, mask_of(logit, line.width, line.height), float(score))
            for phrase, logit, score in zip(line.phrases, logits, scores, strict=True)
        )

    def _scale(self, line: Grounded) -> Float[Tensor, "4"]:
        size: Any = self.pixels.size
        return torch.tensor([size["width"] / line.width, size["height"] / line.height]).repeat(2)


def mask_of(logits: Float[Tensor, "rows columns"], width: int, height: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask of an image from the model's logits: enlarged bilinearly, then cut at 0 (SAM 2's image predictor)."""
    large = torch.nn.functional.interpolate(logits[None, None], (height, width), mode="bilinear", align_corners=False)
    return (large[0, 0] > 0).numpy()


def _segment(phrase: str, box: Box, mask: Bool[np.ndarray, "height width"], score: float) -> Segment:
    confidence = round(min(max(score, 0.0), 1.0), 4)
    return Segment(phrase=phrase, box=box, score=confidence, rle=Rle(**masks.encode(mask)))


def load(source: str, revision: str | None = None, device: str = "auto", dtype: str = "auto") -> Segmenter:
    """Load SAM 2 from a folder or from the hub, as in ``annotators.load``.

    The published checkpoints are of the video model, which holds the image model.

    Raises:
        InputError: not such a checkpoint, or the settings of its images are missing.
    """
    model = annotators.load(Sam2Model, {"sam2", "sam2_video"}, False, source, revision, device, dtype)
    try:
        pixels = _Pixels.from_pretrained(model.folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} does not say how it takes images: {str(error).splitlines()[0]}") from None
    return Segmenter(model, pixels)
