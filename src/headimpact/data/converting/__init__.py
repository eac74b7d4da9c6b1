"""Data of one's own from the files of other tools: each module reads one, :mod:`headimpact.data.converting.writing`
writes COCO JSON of it, which :mod:`headimpact.data.own_data` reads.

COCO JSON itself, as CVAT and Label Studio export it, needs no conversion, but where boxes are to be masks or crowds
objects.
"""
