"""Images in, numbers out: what does everybody who runs a model over images have in common?

Open ``forward`` first: it prepares images, packs what is said about them, and puts it through the decoder. ``stream``
prepares ahead of the device, ``frozen`` keeps what does not change; ``phrases`` is its simplest user: images in, losses
and log-probabilities of their phrases out. ``likelihood`` reads log-probabilities off packed sequences;
``checkpoints`` keeps the state of long work; ``workers`` shares it between processes; ``watch`` lets others see how far
it is.
"""
