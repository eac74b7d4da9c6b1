"""What is everything measured on? Images, the masks of their objects, and phrases.

Open ``samples`` first: a sample is an image with its key objects. ``coco.read_part`` reads the samples of one part of
a dataset; the format, COCO JSON with a mask (``masks``) and a phrase per object, is the same for every source:

- the generated scenes: ``scenes`` draws them, ``scene_dataset`` writes them;
- the authors' release: ``download``, ``published``, ``published_masks``;
- COCO annotated here: ``captions`` chooses, ``grounding`` (Florence-2) and ``segmentation`` (SAM 2) go through files
  of ``lines`` (``annotators``), keep a ``journal`` of it, and ``segmented`` reads what came out;
- data of one's own: ``own_data``.

``assembly`` splits (``split``) and writes (``writing``, ``manifest``) the samples of any of them. ``checking`` finds
what is wrong with a dataset (``problems``, ``images``, ``overlap``).
"""
