"""What the tournament says."""

ABSENT = (
    "No tournament was held. To set the rules of selection against each other, run headimpact tournament, then the "
    "report again."
)
ELSEWHERE = (
    "It was held on another test part than that of the dataset in use, so it is no evidence for what else is shown "
    "here. headimpact tournament holds one on this dataset."
)
ABOUT = (
    "Every rule of selection at the same number of trainable parameters (full: at ranks that add up to it), trained "
    "with several seeds (draws of random layers: one seed each) and measured on the same test objects as the original. "
    "Every interval covers both other test images and other runs; n says how many there are."
)
RIVALS = (
    "Other rules for choosing layers, random draws of layers, and the budget spread over all layers (over evenly "
    "spaced ones where it is less than rank 1 a layer: full), each with as many trainable parameters and several seeds "
    "(section Tournament). What can be claimed of the layers of highest HI, with {better} being better:"
)
FIGURE = "test {gain} against {forgetting}, adapter minus original"
CHANGES = (
    "Mean over the runs of a rule, adapter minus original, and below it the 95 % confidence interval of this change "
    "alone. Gain is {gain}; forgetting is {forgetting}."
)
COMPARISONS = (
    "How much better (below 0: worse) top by HI does than each rival: {better}. "
    "Below it the interval; all intervals of one model hold the truth at once with 95 % confidence (Bonferroni, half "
    "of it for the random draws), provided that seeds move the rules of one K about alike. Where those of top vary "
    "five times as much as the others', one of ten simulated tournaments without any difference made a claim: then "
    "take more seeds. What can be claimed stands out. Rules joined by = took the same layers and have the same runs."
)
IMAGES = (
    "Test images with which a true difference of that size would be claimed with probability 0.8, with as many runs as "
    "now; below it the smallest difference that the present number of test images shows so. Where the runs alone vary "
    "too much, only more seeds or draws help. An order of size: the spread is estimated from few runs."
)
SAME_LAYERS = "the same layers"
MORE_RUNS = "more runs"
SEEN_NOW = "{difference:.3g} is seen now"
