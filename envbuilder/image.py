"""Ask an image: our own eyes (`envbuilder.inside`), bound into it for the moment, answer for its files and programs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import envbuilder
from envbuilder import process, runtime
from envbuilder.document import to_json
from envbuilder.errors import HostError
from envbuilder.host import sha256
from envbuilder.inventory import Inventory
from envbuilder.process import Command
from envbuilder.runtime import Entering, Runtime
from envbuilder.target import Mpi, Target

# Where our own code is bound in an image.
EYES = "/.envbuilder"
_QUESTIONS = f"{EYES}/question"
_ENTRY = f"import sys; sys.path.insert(0, {EYES!r}); from envbuilder.inside import main; main(sys.argv[1:])"
_TIMEOUT_SECONDS = 1800.0
# What our eyes need besides the standard library; both are Python alone.
_HELPERS = ("elftools", "packaging")


def eyes() -> dict[str, str]:
    """The folders of our code, and where they are bound."""
    found = {str(Path(envbuilder.__file__).parent): f"{EYES}/envbuilder:ro"}
    for name in _HELPERS:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise HostError(f"the Python module {name} is missing", hint="install envbuilder anew")
        found[str(Path(spec.origin).parent)] = f"{EYES}/{name}:ro"
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Whom to ask: an image, by a runtime, through the command of its interpreter."""

    program: Runtime
    image: Path
    python: str = "python3"


def ask(whom: Asked, question: str, asked: Mapping[str, Any], how: Entering) -> dict[str, Any]:
    """The answer of an image to a question of `envbuilder.inside`; raises `HostError` where it cannot give one."""
    with tempfile.TemporaryDirectory(prefix="envbuilder-ask-") as folder:
        Path(folder, "question.json").write_text(to_json(asked))
        binds = {**eyes(), **how.binds, folder: _QUESTIONS}
        words = runtime.enter(whom.program, whom.image, replace(how, binds=binds))
        done = process.capture(
            Command(argv=(*words, whom.python, "-I", "-c", _ENTRY, question, _QUESTIONS)), timeout=_TIMEOUT_SECONDS
        )
        try:
            told = json.loads(Path(folder, "answer.json").read_bytes())
        except (OSError, ValueError) as error:
            raise HostError(*_why(whom.image, whom.python, done.output)) from error
    if "error" in told:
        raise HostError(f"in {whom.image.name}: {told['error']}", hint=told.get("hint", ""))
    return dict(told["answer"])


def look(whom: Asked, *, with_mpi: bool, mpi_wheel: str, mark: str) -> Target:
    """The target that an image is; `mark` is the digest of what it was made from. Raises `HostError`."""
    asked = {"with_mpi": with_mpi, "mpi_wheel": mpi_wheel}
    found = ask(whom, "look", asked, Entering(binds={}, clean=True, cwd="/"))
    return replace(Target.from_document(found), image=mark)


def whom(about: Mapping[str, Any]) -> Asked:
    """The image that an environment is in, to be asked."""
    return Asked(
        program=runtime.find_again(about["runtime"], os.environ), image=Path(about["file"]), python=about["python"]
    )


def finished(about: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of an image (`environment.Environment.image`), with its sha256."""
    return {**about, "sha256": sha256(Path(about["file"]))}


def stock(about: Mapping[str, Any], mpi: Mpi | None) -> tuple[Inventory, dict[str, str] | None]:
    """The inventory of an image's tree, and the MPI library that its ranks must have mapped."""
    asked = {"prefix": about["prefix"], "mpi": asdict(mpi) if mpi else None}
    told = ask(whom(about), "stock", asked, Entering(binds={}, clean=True, cwd="/"))
    library = about["host_mpi"] or told["mpi"]
    found = Inventory(records=told["records"], written=told["written"])
    return found, {**library, "mpiexec": about["mpiexec"]} if library else None


def _why(image: Path, python: str, output: str) -> tuple[str]:
    last = "\n".join(f"    {line}" for line in output.strip().splitlines()[-8:])
    if "Traceback" not in output and re.search(r"executable file not found|No such file or directory", output):
        return (f"{image.name} has no {python}, which every image needs\n{last}",)
    if "SyntaxError" in output or re.search(r"cannot import name|slots|has no attribute", output):
        return (f"the {python} of {image.name} is older than 3.10, which looking into an image needs\n{last}",)
    if "/dev/fuse" in output:
        return (f"images cannot be mounted here: {last.strip()}; ask for /dev/fuse to be open to users",)
    return (f"{image.name} does not answer:\n{last}",)
