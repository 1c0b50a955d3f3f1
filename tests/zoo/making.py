"""Small things that entries are made of: shared objects and scripts."""

from __future__ import annotations

from pathlib import Path

from envbuilder.process import Command, checked


def compiled(source: str, target: Path, *options: str) -> Path:
    """A shared object from C."""
    target.parent.mkdir(parents=True, exist_ok=True)
    code = target.with_name(f"{target.name}.c")
    code.write_text(source)
    checked(Command(argv=("cc", "-shared", "-fPIC", "-o", str(target), str(code), *options)), timeout=60)
    code.unlink()
    return target


def script(path: Path, lines: str) -> Path:
    """A program of sh."""
    path.write_text(f"#!/bin/sh\n{lines}")
    path.chmod(0o755)
    return path
