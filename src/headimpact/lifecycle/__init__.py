"""How a person, MLflow and DVC run it: the command line, the steps, the graph, tracking and serving.

``command_line`` is the file to open first.
"""
