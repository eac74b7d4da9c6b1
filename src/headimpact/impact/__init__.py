"""Where do heads look? Attention against the masks of objects.

Open ``layer_scores`` first: the IoU of one layer's heads with the objects (equation 1), its chance level, AUROC and
attention mass. ``accumulator`` collects them over layers and images; ``head_impact`` is Head Impact (equation 2) and
its tables; ``kruskal_wallis`` tests whether layers and heads differ. ``scoring`` runs a model over images for that;
``attention_map`` shows a single head on a single image.

The definition itself is put under test: ``variations`` computes Head Impact otherwise, ``examination`` runs a model
over images for every variation at once, ``stability`` asks how far the result depends on the images.
"""
