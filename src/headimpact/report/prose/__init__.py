"""What the report says at length, apart from the code that arranges it: a file for each file of ``sections``.

Texts with braces are templates, which the section of the same name fills.
"""
