"""Where heads look: attention against masks.

``head_impact`` (open it first) has the scores of a head, equations 1 and 2 of the paper; ``scoring`` runs a model over
images for them; ``variations``, ``stability`` and ``examination`` put the definition itself under test.
"""
