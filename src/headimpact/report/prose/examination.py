"""Head Impact under test: by other definitions, on other images, and split into layers and heads."""

NOT_EXAMINED = "No model was examined. Run headimpact examine --model {model}."
VARIATIONS = (
    "Head Impact computed otherwise, one thing at a time, on images of the impact part. Difference: of the mean over "
    "all heads to the definition's, on the same objects; the intervals hold for all variations together (95 %, "
    "clustered by image). Chance: the same attention against masks of other images. Centre blob: an ellipse half as "
    "wide and half as high as the image, without any model; all ones: all visual tokens. Neither goes by the "
    "threshold: the median lets every head attend to half of all tokens, and top-area tells it how many the object "
    "has, which the blob is not told. Rank: Spearman correlation with the definition. Sinks: of every full hundred "
    "visual tokens the one most attended to, at least one, is taken from attention and mask; the image's is that of "
    "all heads together."
)
VARIANCE = (
    "The variance of Head Impact between heads, split into layers and heads within layers (nested random effects; what "
    "the choice of images leaves is estimated, clustered by image, and taken off), beside the paper's Kruskal-Wallis "
    "tests. Between layers: their share, with its interval over choices of images. Eta squared is the share of the sum "
    "of squares with nothing taken off, beside its mean where heads are put into layers at random."
)
COUNTED = "{objects} objects of {images} images. {layers} layers of {heads} heads."
STABILITY = "{model}: top layers that two sets of images have in common"

BASELINES = (
    "{above_chance} of {heads} heads are above their chance level and {above_blob} above a blob in the image's centre "
    "(HI {blob:.3f}), with an error of 5 % over all heads together. The best head reaches {best_hi:.3f}; the mean over "
    "all heads, {mean_hi:.3f}, is {side} the blob."
)
SINKS = "{name}: {effect}{left_out}. {raised} of {heads} heads rise significantly; {same} of the top layers stay."
SINKS_UNKNOWN = "nothing can be said about the mean HI"
SINKS_RISE = "the mean HI rises by {interval}: sinks held it down"
SINKS_FALL = "the mean HI falls by {interval}: in the mean no sink held it down"
SINKS_NO_EFFECT = "the mean HI changes by {interval}: no effect can be claimed"
LEFT_OUT = " ({share:.1%} of the scores had no token of the object left)"

KINDS = {"sinks": "attention sinks", "threshold": "the threshold", "mask": "the token mask", "rows": "the query rows"}
"""The kinds of variations, as a sentence calls them."""
DEPENDS = "The top {top} layers {verdict}. The same as by the definition: {overlaps}."
SAME = "do not depend on {what}"
AS_IMAGES_DO = "change with {what}, but by no more than with the images (two sets share from {usual:.3g} on)"
OTHERS = "depend on {what}"

IMAGES = (
    "For the top {k}, {reached} for two sets of images without any in common to agree on {enough:.0%} of the "
    "layers in the mean; with {most} each they share {overlap:.2f} of {k} (by chance {expected:.2f})."
)
ENOUGH = "{n} images are enough"
NOT_ENOUGH = "{n} images are not enough"

NO_VARIANCE = "Heads differ by no more than the choice of images brings about: there is no variance to split."
SPLIT = (
    "{share:.0%} ({low:.0%} to {high:.0%}) of the variance between heads lies between layers, the rest between heads "
    "of the same layer. A choice of whole layers {verdict}."
)
MOST_LEFT = "leaves most of it aside"
MOST_TAKEN = "takes most of it in"
KRUSKAL = (
    "The paper's test across layers has p = {layers:.2g}. Its test across head indices has p = {heads:.2g}, which says "
    "nothing: head 0 of one layer and head 0 of another share but their number, and any order of a layer's heads is "
    "the same model."
)
