"""What an adapter is known by, without the libraries that compute."""

import hashlib
from pathlib import Path

from headimpact.files import digest_file, read_json


def adapter_digest(folder: Path) -> str:
    """The digest of an adapter's weights; of a softened one, which has those of another, that of its scale as well."""
    digest, header = digest_file(folder / "adapter_model.safetensors"), read_json(folder / "header.json")
    return hashlib.sha256(f"{digest} {header['scale']}".encode()).hexdigest() if "scale" in header else digest
