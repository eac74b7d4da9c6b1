"""Where do the embedded bases come from? The real architectures at toy size, pretrained on generated scenes.

Open ``bases`` first: the architectures. ``pretraining`` trains them in three phases: on scenes as the model sees them
(``seen_scenes``), what is said about these (``scene_conversations``), and the ``losses`` of that. What is here decides the
committed weights; moving it changes nothing in them, changing it asks for an hour of pretraining.
"""
