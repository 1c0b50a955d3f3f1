"""The entry: `python -m envbuilder_probes NAME CONTROL_DIR`."""

import faulthandler
import importlib
import json
import os
import sys

from .report import Report

NAMES = ("single", "ranks")


def main(name, directory):
    """Run one probe and leave its evidence; the exit code is 0 whenever the evidence was written."""
    with open(os.path.join(directory, "input.json"), encoding="utf-8") as source:
        asked = json.load(source)
    report = Report(name, directory)
    # launchers do not always say which process died, and by what: the process does, if the signal lets it
    faulthandler.enable(open(report.path(report.stem + ".fault.log"), "w", encoding="utf-8"))  # noqa: SIM115 - stays open
    probe = importlib.import_module("." + name, __package__)
    try:
        probe.run(report, asked)
    except Exception as error:
        report.failed(error)
    report.write()
    probe.leave(report)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in NAMES:
        sys.exit("usage: python -m envbuilder_probes {} CONTROL_DIR".format("|".join(NAMES)))
    sys.exit(main(sys.argv[1], sys.argv[2]))
