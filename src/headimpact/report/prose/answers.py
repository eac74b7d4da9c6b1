"""What the setups answer: questions in every order of their options, and answers in the models' own words."""

NOT_ASKED = "No setup was asked. Run headimpact answer --model {model} --setup original."

ORDERS = (
    "The question of every object, asked in all 24 orders of its four options, beside the single seeded order of "
    "table 4 on the same objects. Value ± standard error clustered by image, and below it the paired difference "
    "against the original with its 95 % confidence interval (not corrected for the number of comparisons). A model "
    "that goes by the options alone never changes its choice with the order, and gives each label a mean probability "
    "of 0.25."
)
ORDER_COLUMNS = {
    "accuracy_24_orders": "accuracy, 24 orders",
    "accuracy_1_order": "accuracy, 1 order",
    "ans_prob_24_orders": "AnsProb, 24 orders",
    "ans_prob_1_order": "AnsProb, 1 order",
    "order_dependent": "choice depends on the order",
}
LABELS = "Mean probability of each label"
LABEL = "label {label}"
SETUP_IN_ORDERS = (
    "{model}, {setup}: right in {every} of the answers over all orders and in {single} in the single one; the order "
    "decides the choice for {dependent} of the objects, and {favourite}."
)
NO_FAVOURITE = "no label is favoured beyond 2.5 standard errors"
FAVOURITE = "{label} is favoured with {probability} of the probability"
CLAIMS_IN_ORDERS = "{model}, accuracy over all orders against the original: {claims}. {single}"
SINGLE_OTHERWISE = "The single order would have claimed otherwise of {setups}."
SINGLE_SAME = "The single order claims the same."
CLAIMS = {"higher": "higher under", "lower": "lower under", "no claim": "no change can be claimed under"}

WORDS = (
    "What the models say of themselves, generated greedily: of the whole image, asked for a caption and asked what it "
    "shows, and of every object's box, cut out and asked for a caption. The answers are compared with the objects' "
    "phrases by exact match and F1 of their words, and by ROUGE-L (0 to 1, higher is nearer). An answer about the "
    "whole image is held against the phrase that is nearest, or against all of them (mean). The log-probability (nats "
    "a token) is that of the phrase as the caption of the whole image."
)
GALLERIES = "The answers themselves stand in {galleries}, which the step report writes beside this file."
WORD_COLUMNS = {
    "caption_f1_best": "caption, F1, nearest phrase",
    "caption_f1": "caption, F1, mean phrase",
    "question_f1_best": "question, F1, nearest phrase",
    "cutout_f1": "cut-out, F1",
    "cutout_rouge_l": "cut-out, ROUGE-L",
    "cutout_exact_match": "cut-out, exact match",
    "reference_log_prob": "log-probability of the phrase",
}
CAPTIONS = "{model}: F1 of the caption with the nearest phrase: {captions}.{cutouts}"
CUTOUTS = " Of single objects (cut-outs), F1 against the original: {claims}."

GALLERY = (
    "Every picture shows the outlines of its key objects, numbered. Caption and question are asked of the whole "
    "picture and compared with the nearest phrase, whose number stands behind the score; a cut-out is the box of one "
    "object, asked for a caption and compared with that object's phrase. F1 is that of the words, from 0 to 1; what "
    "is the same as the phrase stands out. All answers are generated greedily."
)
