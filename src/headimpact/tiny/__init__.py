"""How the embedded bases came about: architectures of the real classes at toy size, and their pretraining.

``bases`` is the file to open first.
"""
