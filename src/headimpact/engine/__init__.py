"""Images in, numbers out: what does everybody who runs a model over images have in common?

Open ``phrases`` first: images in, the loss and the log-probabilities of their phrases out, in one forward.
``likelihood`` reads log-probabilities off packed sequences; ``checkpoints`` keeps the state of long work; ``workers``
shares it between processes; ``watch`` lets others see how far it is.
"""
