"""What everything is measured on: images, the masks of their objects, and phrases.

One format for every source, COCO JSON (``coco``: open it first). The generated scenes (``scenes``), the published
release (``published``), COCO with Florence-2 and SAM 2 (``captions``, ``download``, ``grounding``, ``segmentation``)
and data of one's own (``assembly``) all end in it; ``checking`` finds what is wrong with a dataset.
"""
