"""What all pages that stand alone share; ``rendering`` is the file to open first."""
