"""Folders that frameworks write to while they run: whether this process, on this node, can."""

import os
import tempfile


def writable(names):
    """For each variable that has a value: the folder, and what went wrong when a file was made in it ("" if nothing)."""
    return {
        name: {"path": os.environ[name], "error": _tried(os.environ[name])} for name in names if os.environ.get(name)
    }


def _tried(path):
    """Make the folder, as its user would, and a file in it that is gone again at once."""
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"envbuilder")
    except OSError as error:
        return "{}: {}".format(error.filename or path, error.strerror)
    return ""
