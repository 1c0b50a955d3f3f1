"""Folders that frameworks write to while they run, and data that programs read: whether this process, on this node, can."""

import os
import socket
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


def readable(names):
    """For each variable: where it leads ("" if it has no value), and what is wrong with reading there ("" if nothing)."""
    return {
        name: {"path": os.environ.get(name, ""), "error": _read(os.environ.get(name, "")), "host": socket.gethostname()}
        for name in names
    }


def _read(path):
    """Look at the first entry of a folder, or read the first byte of a file; an empty one of either is no data."""
    if not path:
        return "it has no value"
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                return "" if any(True for _ in entries) else "the folder is empty: is its file system mounted here?"
        with open(path, "rb") as source:
            return "" if source.read(1) else "the file is empty"
    except OSError as error:
        return error.strerror or str(error)
