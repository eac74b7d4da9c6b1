"""What is said of softened adapters."""

TITLE = "Gain without forgetting"
ABOUT = (
    "Trained adapters at every scale from 0 (the original) to 1 (as trained), on the validation part, minus the "
    "original and with 95 % intervals by image. The ring is the scale that was chosen there: the largest up to which "
    "the interval of the accuracy stays within the bound (the dashed line). What is left of gain and forgetting on the "
    "test part stands in table 4."
)
FIGURE = "validation gain against forgetting by scale, adapter minus original"
CHOSEN = "{model}, {trained}: scaled to {scale:g}, so that accuracy stays within {bound:g} of the original's."
NONE = (
    "{model}, {trained}: at no scale above 0 can it be claimed that accuracy stays within {bound:g} of the original's, "
    "so {setup} is the original."
)
