"""PaliGemma 2."""

from facts import Facts
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid


def seen(vlm: Vlm, encoded: EncodedImage):
    rows, cols = encoded.grid.rows, encoded.grid.cols
    pixels = encoded.pixels["pixel_values"][0]
    channels, height, width = pixels.shape
    patches = pixels.reshape(channels, rows, height // rows, cols, width // cols)
    return patches.permute(1, 3, 0, 2, 4).reshape(rows * cols, -1)


FACTS = Facts(
    settings=bases.TINY["tiny-paligemma2"],
    real_settings=published()["google/paligemma2-3b-mix-448"].settings,
    template=None,
    caption="<image><bos>describe en\n{phrase}<eos>",
    layers=26,
    heads=8,
    parameters=3_033_127_152,
    adapted_layer=352_256 // 4,
    grid_at_640x480=TokenGrid(32, 32),
    visual_tokens={(640, 480): 1024, (200, 145): 1024},
    patches_per_token=1,
    seen=seen,
)
