"""Record what a command really prints in a terminal as an SVG: `python docs/record.py OUT.svg -- COMMAND ...`."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

# The picture names a font and leaves the choice to the reader's machine: nothing is fetched.
_FONT_FACE = re.compile(r"@font-face \{[^}]*\}\s*")


def main() -> int:
    """Run the command, keep its colours, and write the picture; the command's exit code is ours."""
    out, _, *command = sys.argv[1:]
    env = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    text = done.stdout.replace(os.path.expanduser("~"), "~").replace(os.environ.get("ENVBUILDER_HOME", "\0"), "~/store")
    console = Console(record=True, width=124, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {' '.join(['envbuilder', *command[1:]])}"))
    for line in text.splitlines():
        console.print(Text.from_ansi(line), soft_wrap=True)
    Path(out).write_text(_FONT_FACE.sub("", console.export_svg(title="envbuilder")))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
