"""What it looks like: the report, its tables and figures, and what they say in words.

``report`` is the file to open first.
"""
