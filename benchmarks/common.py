"""What the benchmarks share: results, the store that they work in, how two sides are compared, the command line."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ENVBUILDER = str(Path(sys.executable).with_name("envbuilder"))


@dataclass(frozen=True, kw_only=True)
class Result:
    """Medians in seconds (or another `unit`) of both sides, their ratio, and the limit: `at_most` or `at_least` that ratio."""

    name: str
    ours: float
    theirs: float
    rounds: int
    limit: float
    at_least: bool = False
    note: str = ""
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """Theirs by ours where more is better, else ours by theirs."""
        return self.theirs / self.ours if self.at_least else self.ours / self.theirs

    @property
    def met(self) -> bool:
        """Whether the limit holds."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store that is kept between runs, and a folder for what is thrown away."""

    home: Path
    scratch: Path

    def run(self, *argv: str, env: Mapping[str, str] | None = None, fine: Sequence[int] = (0,)) -> float:
        """The wall time of a program, in seconds; its failure ends the benchmark."""
        variables = {**os.environ, "ENVBUILDER_HOME": str(self.home), **(env or {})}
        started = time.perf_counter()
        done = subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode not in fine:
            sys.exit(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stderr[-3000:]}")
        return seconds

    def output(self, *argv: str, env: Mapping[str, str] | None = None) -> str:
        """What a program writes to stdout."""
        variables = {**os.environ, "ENVBUILDER_HOME": str(self.home), **(env or {})}
        return subprocess.run(argv, env=variables, capture_output=True, text=True, check=True).stdout.strip()

    def forget(self, recipe: str) -> None:
        """Let an environment not be there. Its tree is kept aside: ext4 makes new inodes slowly where many were just freed."""
        prefix = json.loads(self.output(ENVBUILDER, "envs", "show", recipe, "--json"))["prefix"]
        os.rename(prefix, Path(tempfile.mkdtemp(dir=self.scratch)) / "tree")
        self.run(ENVBUILDER, "envs", "rm", recipe)


def compared(
    ours: Callable[[], float],
    theirs: Callable[[], float],
    rounds: int,
    of: Callable[[Iterable[float]], float] = statistics.median,
) -> tuple[float, float]:
    """Medians of interleaved rounds, or what `of` says; the first round of each warms up and does not count."""
    ours()
    theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return of(pair[0] for pair in pairs), of(pair[1] for pair in pairs)


def main(topics: Mapping[str, Callable[[Place], Result]], about: str) -> int:
    """Run the topics that were named, or all; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("topics", nargs="*", choices=[[], *topics], default=[], help="which (default: all)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache" / "envbuilder-benchmarks", help="the store")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_same_disk(arguments.home)) as scratch:
        place = Place(home=arguments.home, scratch=Path(scratch))
        results = []
        for topic in arguments.topics or topics:
            results.append(topics[topic](place))
            print(_line(results[-1]), flush=True)
    if arguments.json:
        rows = [{**asdict(one), "ratio": round(one.ratio, 3), "met": one.met} for one in results]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(one.met for one in results) else 1


def _same_disk(home: Path) -> Path:
    """Raw uv must be able to make hard links as well."""
    home.mkdir(parents=True, exist_ok=True)
    return home


def _line(one: Result) -> str:
    sign = ">=" if one.at_least else "<="
    said = "met" if one.met else "MISSED"
    return (
        f"{one.name:50} {one.ours:8.3f} {one.unit} {one.theirs:8.3f} {one.unit}   "
        f"ratio {one.ratio:6.2f} {sign} {one.limit:<5} {said}"
        f"   ({one.rounds} round{'s' if one.rounds > 1 else ''}{'; ' if one.note else ''}{one.note})"
    )
