"""The sections of the report: each gives the blocks of one or of a few that belong together.

Their long texts are in ``prose``, a file for each file here.
"""
