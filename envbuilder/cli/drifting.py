"""The command that says what the machine does differently than when environments were built."""

from __future__ import annotations

import os
from argparse import Namespace

from envbuilder import store
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.errors import FINE, NOT_VERIFIED, SAID_NO, InputError


def drift(arguments: Namespace, console: Console) -> int:
    """`envbuilder drift`: exit code 0 for none, 1 for some, 4 where it could not be looked at; nothing is changed."""
    from envbuilder.drift import grouped
    from envbuilder.report import changes as rendering
    from envbuilder.today import Machine

    place = opened(arguments.site)
    chosen = [store.find(place, name) for name in arguments.environments] or list(store.environments(place))
    if not chosen:
        raise InputError(
            f"there is no environment in {place.root}", hint="build one: envbuilder build tensorflow-onednn"
        )
    machine = Machine(place, os.environ)
    reports = []
    for environment in dict.fromkeys(one.identifier for one in chosen):
        with console.step(f"look at {environment}"):
            reports.append(machine.look(next(one for one in chosen if one.identifier == environment)))
    found = grouped(change for report in reports for change in report.changes)
    unseen = any(report.unseen for report in reports)
    code = SAID_NO if found else NOT_VERIFIED if unseen else FINE
    if console.json:
        console.document(rendering.document(reports, found, code))
    else:
        console.result(rendering.render(reports, found))
    return code
