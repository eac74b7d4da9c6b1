"""Head Impact: its figures, and how much its ranking agrees with the others."""

NOT_SCORED = "No model was scored. Run headimpact score --model {model}."
AGREEMENT = (
    "Every rule of selection beside top-{k} by HI: the rank correlation (Spearman) of what the two go by, over all "
    "layers, and how many of their {k} layers are the same. Measured by the step "
    "measure: {measured}. By the layer's place alone: {positions}."
)
