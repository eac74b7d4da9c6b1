"""Where do the embedded bases come from? The real architectures at toy size, pretrained on generated scenes.

Open ``bases`` first: the architectures. ``pretraining`` trains them in three phases: on scenes as the model sees them
(``seen_scenes``), with what is said about these (``scene_conversations``), by the ``losses`` of both. What is here
decides the committed weights: a change of it means to pretrain them again.
"""
