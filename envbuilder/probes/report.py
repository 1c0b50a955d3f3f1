"""The evidence of one process: facts, phases, and the files that carry them."""

import json
import math
import os
import socket
import time
import traceback

SCHEMA = 1
TRACE_LINES = 40
SURVIVING = ("process", "environment", "mpi")  # facts that the phase file carries too

# Where launchers say which rank a process is, the most specific first: inside a job step of Slurm, mpiexec counts.
RANKS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "PMIX_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)


def launcher_world():
    """What the launcher says: the variable that says so, the rank, the size (0 if it does not say)."""
    for rank, size in RANKS:
        if os.environ.get(rank, "").isdigit():
            told = os.environ.get(size, "")
            return {"variable": rank, "rank": int(os.environ[rank]), "size": int(told) if told.isdigit() else 0}
    return {"variable": "", "rank": 0, "size": 1}


def described(error):
    """An exception as `kind`, `message` and `traceback`."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    trace = "".join(lines).splitlines()[-TRACE_LINES:]
    return {"kind": type(error).__name__, "message": str(error)[:4000], "traceback": "\n".join(trace)}


def plain(value):
    """The value as JSON can hold it: NaN and infinities as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


class Report:
    """The facts of one process, its phase, and the first error."""

    def __init__(self, probe, directory):
        self.probe = probe
        self.directory = directory
        self.started = time.monotonic()
        self.facts = {}
        self.error = None
        self.rank = launcher_world()["rank"]
        self.stem = self._claim()
        self.phase = ""
        self.turn = 0
        self.enter("start")

    def _claim(self):
        """A stem that no other process has; the exclusive creation of the phase file decides."""
        stem = "{}.{}".format(self.probe, self.rank)
        for candidate in [stem] + ["{}.{}".format(stem, os.getpid() + turn) for turn in range(1000)]:
            try:
                os.close(os.open(self.path(candidate + ".phase.json"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            except FileExistsError:
                continue
            return candidate
        raise FileExistsError(self.path(stem))

    def path(self, name):
        """A file of the control directory."""
        return os.path.join(self.directory, name)

    def _replace(self, name, document):
        beside = self.path("{}.{}.tmp".format(name, os.getpid()))
        with open(beside, "w", encoding="utf-8") as sink:
            json.dump(plain(document), sink, indent=1, allow_nan=False)
        os.replace(beside, self.path(name))

    def enter(self, phase):
        """Announce what the process does next."""
        self.phase = phase
        self.turn += 1
        self.facts["process"] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "turn": self.turn,
            "launcher": launcher_world()["variable"],
        }
        self._replace(
            self.stem + ".phase.json",
            {
                "phase": phase,
                "since": time.time(),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "rank": self.rank,
                "facts": {name: self.facts[name] for name in SURVIVING if name in self.facts},
            },
        )

    def failed(self, error):
        """Keep an exception as the error, unless there is an earlier one, and return its description."""
        told = described(error)
        if self.error is None:
            self.error = told
        return told

    def part(self, name, measure, *arguments):
        """Keep what `measure` returns as the fact `name`; an exception becomes `{"error": ...}` there.

        Returns whether it went well.
        """
        self.enter(name)
        began = time.monotonic()
        try:
            value = measure(*arguments)
        except Exception as error:
            self.facts[name] = {"error": self.failed(error)}
            return False
        finally:
            self.facts.setdefault("seconds", {})[name] = round(time.monotonic() - began, 3)
        self.facts[name] = value
        return True

    def write(self):
        """Write the final file."""
        self._replace(
            self.stem + ".json",
            {
                "schema": SCHEMA,
                "probe": self.probe,
                "rank": self.rank,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "phase": self.phase,
                "finished": True,
                "seconds": round(time.monotonic() - self.started, 3),
                "facts": self.facts,
                "error": self.error,
            },
        )
