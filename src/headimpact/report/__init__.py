"""What does it look like? The report, its tables and figures, and what they say in words.

Open ``document`` first: it lists the sections. ``outputs`` is what they are made from, ``tables`` holds tables 1 to 5
as data, ``sections`` makes blocks of them with the texts of ``prose``, ``page`` writes blocks as Markdown and HTML, and
``writing`` fills the folder.
"""
