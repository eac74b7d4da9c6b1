"""Which layers to adapt: setups, the rules that choose layers, and what layers are measured by.

``selection`` is the file to open first; ``measures`` measures what Head Impact does not say about a layer;
``agreement`` compares rules.
"""
