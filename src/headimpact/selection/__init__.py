"""Which layers to adapt: setups, the rules that choose layers, and what layers are measured by.

Open ``rules`` first: every rule and every measure is one object there. ``grammar`` reads the text of a setup,
``setups`` says which setups there are, ``choice`` selects, ``selection`` is what it gives. ``measured`` reads the
measures' tables, ``measures`` and ``localisation`` compute those that the HI table does not hold, ``agreement``
compares rules.

To add a rule: write its object into ``rules.RULES``: ``by_measure("name")`` for the layers of a measure's highest
scores; else a ``Rule`` with the priority that it ``ranks`` layers by, or the set that it ``takes``. Setups, messages,
figures and report read the table; ``tournament.rules`` in ``params.yaml`` says which rules a tournament is held with.

To add a measure: write its object into ``rules.MEASURES`` and, for a column that the HI table has,
``in_impact_table=True``; else compute it in ``measures.measure``, one figure a layer or one a layer and head, under the
same name. The step measure then writes and shows it, and the setups of a rule that goes by it run that step first.
"""
