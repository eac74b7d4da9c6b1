"""An HTML page that stands alone: it needs no server and no network, and may load nothing and run nothing else."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

_FOLDER = Path(__file__).parent


def render(folder: Path, template: str, title: str, styles: Sequence[str], scripts: Sequence[str], **shown: Any) -> str:
    """A page whose style and script are in it; its content policy allows these two and pictures that are in it.

    Args:
        folder: where template, styles and scripts are.
        template: extends ``standalone.html``; fills its block ``body``. Values are escaped.
        title: of the page.
        styles: files that follow the style that all pages share.
        scripts: files that become one script.
        shown: values of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = _text([_FOLDER / "standalone.css", *(folder / name for name in styles)])
    script = _text([folder / name for name in scripts])
    return environment.get_template(template).render(
        title=title,
        style=style,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        **shown,
    )


def _text(files: Sequence[Path]) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
