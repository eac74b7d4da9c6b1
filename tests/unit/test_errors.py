"""Faults of a machine, in a sentence."""

import errno
import os

import pytest
from safetensors import SafetensorError

from headimpact.errors import InputError, fault_of_machine


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "outputs/x.csv"),
            "outputs/x.csv: No space left on device. Make room and run the command again: what was finished is kept.",
        ),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "mlflow.db"),
            "mlflow.db: Read-only file system. The project has to lie on a disk that can be written.",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "Error while serializing: I/O error: No space left on device (os error 28). Make room and run the command "
            "again: what was finished is kept.",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "No usable temporary directory found in ['/tmp']. Set TMPDIR to a folder that can be written.",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), None),  # a fault of ours
        (SafetensorError("Error while deserializing header"), None),
        (InputError("no"), None),
    ],
)
def test_what_a_person_can_do_about_a_fault_of_the_machine(error: Exception, message: str | None):
    assert fault_of_machine(error) == message
