"""Which setup to use."""

TITLE = "Which setup to use"
HOW = "How this is decided"
PASTE_TITLE = "The choice elsewhere"
NO_MODEL = (
    "Nothing was measured yet. headimpact advise tells what to begin with, for the model of params.yaml or another "
    "(--model)."
)
RULE = (
    "Gain: the perplexity of phrases such as a setup was trained for falls. Forgetting: the accuracy in questions that "
    "it was not trained for falls; a fall of more than {bound:g} is too much. Both are adapter minus original on the "
    "test part, with the 95 % interval of this figure alone. Cost: trainable parameters. A setup is beaten where "
    "another one, which trains no more and does not forget, is claimed to be better in gain or forgetting and is not "
    "claimed to be worse in the other. The rule as a whole is in docs/method.md."
)

WHY = {
    "gains most": "Use {setup}: of {count} setups that were measured it gains most ({gain}), and {forgetting}.",
    "not told apart": (
        "Use {setup}: none of {count} setups that were measured can be said to gain more ({gain}), and {forgetting}. "
        "It cannot be told from {tied}; {tie}."
    ),
    "nothing compared": "Use {setup}: {only} alone was measured ({gain}), so that nothing can be compared; {default}.",
    "alone": "Use {setup}: it alone was measured ({gain}), and {forgetting}; {default}.",
    "nothing measured": "Use {setup}: nothing was measured of this model on this dataset yet; {default}.",
    "all forget": (
        "Use the original, or less of an adapter: each of {count} setups that were measured loses more than {bound:g} "
        "of accuracy."
    ),
    "all forget alone": (
        "Use the original, or less of an adapter: {only} alone was measured, and loses more than {bound:g} of accuracy."
    ),
    "no gain": (
        "Use the original: none of {count} setups that were measured can be said to gain anything. Train longer "
        "(train.epochs), or on more images."
    ),
    "no gain alone": (
        "Use the original: {only} alone was measured, and cannot be said to gain anything ({gain}). Train longer "
        "(train.epochs), or on more images."
    ),
}
"""The recommendation and its reason, by what decided it."""
ALONE = {kind: f"{kind} alone" for kind in ("all forget", "no gain")}
"""What is said in the place of these where a single setup was measured."""
BY_DEFAULT = "it spreads the budget over all layers, which nothing in the evidence speaks against"
BY_COST = "of these it trains the fewest parameters"
DEFAULT = "of the models of the tournament ({models}), it is what most evidence is for"
NO_TOURNAMENT = "it is what the evidence of the embedded models is for"

GAIN = "{label} {change}"
WITHIN = "it keeps what the model knew ({label} {change})"
REACHES = "forgetting is within the bound as measured, but its interval reaches beyond it ({label} {change})"
NOT_ASKED = "whether it forgets is not known, since there are no questions to ask"

CLAIMS = "95 % for all claims at once"
NONE_BETTER = "whether one of those is better is not shown. What is claimed holds at 95 %, all at once"
SURE_TOURNAMENT = (
    "How sure: {claims} (of one K), over other test images (here {images}) and other training seeds (here at least "
    "{runs} runs a setup)."
)
SURE_EVALUATIONS = (
    "How sure: {claims}, over other test images (here {images}) alone. There is one adapter a setup, and another "
    "training seed can turn their order round: headimpact tournament trains several."
)
NOT_SURE = "How sure: not at all, of this model."
MORE_GAIN = (
    "More gain for more parameters: {setup} ({gain}; {trainable:,} trainable parameters), of which one adapter was "
    "evaluated, beside the tournament."
)
NOT_MEASURED = "Not measured: {setups}."
NO_ORIGINAL = "The original was not evaluated, so that no gain is known. headimpact evaluate --model {model} makes it."
NEXT = "Next: {command}"

STATUS = {"unbeaten": "nothing beats it", "forgets": "forgets"}
USE = "use this"
BEATEN = "beaten by {setups}"
OUTSIDE = "not in the tournament"
TOURNAMENT_RUNS = "{runs} runs"
ONE_ADAPTER = "1 adapter"
AND_MORE = "{first} and {count} more"

PASTE = "What is recommended, as text for PEFT and for trainers that hand their target modules to PEFT."
PASTED = "{setup} of {model}:"
PASTE_FROM = "headimpact advise --model {model} prints it as text for PEFT and other trainers."

FINETUNE = "headimpact finetune --model {model} --setup {setup}"
EVALUATE = "headimpact evaluate --model {model} --setup {setup}"
SOFTEN = "headimpact soften --model {model} --setup {setup}"
LOOK = "headimpact look --model {model} --setup {setup}"
SERVE = "mlflow models serve -m models:/head-impact-{model}@{alias} --env-manager local -p 5001"
