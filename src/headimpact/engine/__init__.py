"""Images in, numbers out: what everybody who runs a model over images has in common.

``phrases`` (open it first) takes images and gives the loss and the log-probabilities of their phrases; ``likelihood``
reads log-probabilities off packed sequences; ``checkpoints`` keeps the state of long work; ``workers`` shares it
between processes.
"""
