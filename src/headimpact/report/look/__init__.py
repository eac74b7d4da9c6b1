"""What does a model look at: one page. Open ``page.py`` first."""
