"""A document as one HTML page that needs no server and no network."""

from pathlib import Path

from headimpact.report.page import ADDRESS, EXPERIMENT, Document
from headimpact.report.standalone.rendering import render

_FOLDER = Path(__file__).parent


def to_html(document: Document) -> str:
    """The page: style, script and pictures are in it, and it may load nothing and run nothing else."""
    return render(
        _FOLDER,
        "page.html",
        document.title,
        ["page.css"],
        ["page.js"],
        document=document,
        address=ADDRESS,
        experiment=EXPERIMENT,
    )
