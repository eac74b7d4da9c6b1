"""Which rule for choosing layers wins, and what may be claimed of it.

``contest`` (open it first) says who takes part, which runs that needs, and keeps them. From the runs (``runs``)
``comparison`` gives changes against the original and the champion's advantage over every other rule; its parts are
``design`` (runs make groups, objects images), ``variance`` (what varies), ``intervals`` (what interval that makes) and
``power`` (how many test images it would take). ``standings`` makes tables and sentences of it, ``figure`` draws it.

To compare rules by another metric:

1. write its entry, with an aspect, in :data:`headimpact.evaluation.metrics.METRICS`;
2. give the difference of it that matters in params.yaml, ``tournament.differences``;
3. run ``headimpact tournament``: only runs that lack a column of the metric are made again.
"""
