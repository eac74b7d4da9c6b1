"""The summary, and whether the top layers moved more."""

QUESTION = (
    "Head Impact (HI) says how well an attention head looks at the object that is being described. The paper says that "
    "training LoRA adapters on the layers of highest HI (top) changes a model more than training as many layers of "
    "lowest HI (bottom) or as many others (random). Is that so here?"
)
METHOD = (
    "Every adapter was measured on the same test objects as the original model. Perplexity says how well the model "
    "foresees the descriptions it was trained for; accuracy and AnsProb (the probability of the right answer) say "
    "whether it still answers questions with four options, which it was not trained for. A change is claimed only "
    "where its confidence interval leaves zero out. These intervals cover other test images alone: there is one "
    "adapter a setup, and they are not corrected for the number of comparisons. Other training seeds, and corrected "
    "intervals, are the matter of the tournament."
)
NO_TOP = (
    "Not answered: no setup top-K was evaluated. Run headimpact finetune --model {model} --setup top-4, then the same "
    "with bottom-4 and random-4, its controls."
)
NOT_EVALUATED = "No setup was evaluated. headimpact advise --model {model} tells which one to begin with."

COUNTED = (
    "Of {comparisons} comparisons (a model and a metric each), {counts}. In the table: did the top layers move the "
    "metric more than both controls?"
)
COUNTS = {
    "yes": "the top layers moved the metric more than both controls",
    "no": "they moved it less than one of them",
    "it cannot be claimed": "the intervals overlap and nothing can be claimed",
    "not known": "a result is missing",
}
"""What is counted of each answer."""
ASKED_OF_CONTROLS = "Did {top} move it more than its controls? {answers}."

CHANGE = "{metric} (original: {original}): {changes}."
NOTHING_TRAINED = "nothing was trained"

MOVEMENT = (
    "A setup's movement is the absolute value of its paired difference in table 4, its confidence interval "
    "folded at zero. More or less is claimed only where the intervals do not overlap."
)
VERDICT = "{top} {comparisons}. Absolute change against the original: {sizes}."
MORE = "moved more than {rivals}"
LESS = "moved less than {rivals}"
UNDECIDED = "cannot be told from {rivals} (the intervals overlap)"
NOT_KNOWN = "There is no difference against the original for {setups}."
