"""How good a model is: its phrases and its answers on the test part.

``objects`` (open it first) evaluates every object, with the question that ``questions`` draws about it; ``metrics`` is
the registry of what is made of the results. ``orders`` asks in every order of the options; ``answers`` lets the model
speak.

To add a metric:

1. write its entry in :data:`headimpact.evaluation.metrics.METRICS`; everything that shows or compares metrics reads it;
2. where it needs a new column, write that in :class:`headimpact.evaluation.objects.ObjectResult`;
3. run ``headimpact evaluate`` again if it does; results from before are then asked to be made again.
"""
