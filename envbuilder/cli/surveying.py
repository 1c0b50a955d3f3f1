"""The commands that hold a site file against the machine: sites doctor, sites init."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from datetime import datetime, timezone
from pathlib import Path

from envbuilder import catalog
from envbuilder.console import Console
from envbuilder.errors import FINE, InputError


def doctor(arguments: Namespace, console: Console) -> int:
    """`envbuilder sites doctor`: exit code 0 if all holds, 1 if something does not, 4 if not all could be seen."""
    from envbuilder import doctor as judging
    from envbuilder.examine import examine
    from envbuilder.report import rows as rendering

    site, origin = catalog.find_site(arguments.name, os.environ)
    if arguments.partition:
        site.partition(arguments.partition)
    today = datetime.now(timezone.utc).date()
    with console.step(f"examine {site.name}") as tick:
        found = examine(site, arguments.partition, today, tick)
    rows = judging.judge(site, found, today)
    code = judging.exit_code(rows)
    hostname = found.survey.hostname
    if console.json:
        console.document(rendering.document(str(site.name), str(origin.path), hostname, rows, code))
    else:
        title = f"{site.name} ({origin.path}) on {hostname}"
        console.result(rendering.render(title, rows, colour=console.results_in_colour))
    return code


def init(arguments: Namespace, console: Console) -> int:
    """`envbuilder sites init`: a first site file; nothing that exists is overwritten."""
    from envbuilder import first_site
    from envbuilder.document import write_atomically
    from envbuilder.programs import programs_of
    from envbuilder.recipe import NAME
    from envbuilder.site import parse
    from envbuilder.survey import survey

    if not re.fullmatch(NAME, arguments.name):
        raise InputError(
            f"{arguments.name[:80]!r} cannot be a site's name", hint="small letters, digits, dots and dashes"
        )
    path = Path(arguments.output or f"{arguments.name}.yaml")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already", hint="give another with -o, or remove it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"there is no folder {path.absolute().parent}", hint="make it, or give another with -o")
    with console.step(f"look at this machine for {arguments.name}") as tick:
        found = survey()
        tick("compilers, MPI, GPUs")
        programs = programs_of(found.shell.env)
    text = first_site.render(arguments.name, found, programs, datetime.now(timezone.utc).date())
    parse(text, str(path))
    write_atomically(path, text)
    guesses, unknown = text.count("# guess:"), text.count("# unknown:")
    console.note(f"{guesses} guesses and {unknown} unknowns are marked in it: check and fill them in")
    console.note(f"then: envbuilder lint {path} && envbuilder sites doctor {path.absolute()}")
    if path.name == f"{arguments.name}.yaml":
        console.note(
            f"to be found as {arguments.name}: put it into ~/.config/envbuilder/sites, or a folder of ENVBUILDER_SITE_PATH"
        )
    console.result(str(path))
    return FINE
