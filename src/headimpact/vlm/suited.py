"""What of a dataset a base can take: images that its image processor refuses and phrases that its tokenizer would take
as control are left out, each with the reason, and the others go on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from headimpact.data.packed import PackedSamples, Packer
from headimpact.data.samples import Sample
from headimpact.vlm.base import Vlm


@dataclass(frozen=True)
class Unsuited:
    """An image, or one of its objects, that a base cannot take, and why."""

    sample: Sample
    object_id: int | None
    reason: str

    @property
    def record(self) -> str:
        """As in ``annotation 12 of image 3``."""
        image = f"image {self.sample.id}"
        return image if self.object_id is None else f"annotation {self.object_id} of {image}"


def suited(samples: PackedSamples, vlm: Vlm, tell: Callable[[Unsuited], None]) -> PackedSamples:
    """The samples that a base can take; what it cannot is told.

    Args:
        samples: of a part.
        vlm: the base, or its skeleton without weights.
        tell: is given everything that is left out.
    """
    kept: list[int] = []
    changed: dict[int, Sample] = {}
    for index, sample in enumerate(samples):
        if (reason := vlm.unfit(sample.width, sample.height)) is not None:
            tell(Unsuited(sample, None, reason))
            continue
        refused = {obj.id: token for obj in sample.objects if (token := vlm.chat.control_token(obj.phrase))}
        for object_id, token in refused.items():
            reason = f"its phrase holds {token!r}, which the tokenizer of {vlm.source} takes as a control token"
            tell(Unsuited(sample, object_id, reason))
        if refused:
            objects = tuple(obj for obj in sample.objects if obj.id not in refused)
            changed[index] = replace(sample, objects=objects)
        if len(refused) < len(sample.objects) or not refused:
            kept.append(index)
    if not changed:
        return samples if len(kept) == len(samples) else samples.choose(np.array(kept, np.int64))
    packer = Packer()
    for index in kept:
        packer.add(changed.get(index) or samples[index])
    return packer.pack()
