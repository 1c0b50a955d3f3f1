"""Replace a text in one file of an unpacked source: `replace.py SPEC.json`, made by `envbuilder.builders.source`.

The text must stand there exactly as often as is said; else the source is another one than the recipe was written for.
"""

import json
import os
import sys


def replaced(text, old, new, count):
    """The text with every `old` replaced; raises `ValueError` unless there are `count`."""
    found = text.count(old)
    if found != count:
        raise ValueError(f"the text to replace is there {found} times, not {count}: {old!r}")
    return text.replace(old, new)


def inside(root, name):
    """The path of a file below a folder; raises `ValueError` for one that is not there or leads out of it."""
    path = os.path.realpath(os.path.join(root, name))
    if not path.startswith(os.path.realpath(root) + os.sep):
        raise ValueError(f"{name} leads out of the source")
    if not os.path.isfile(path):
        raise ValueError(f"the source has no file {name}")
    return path


def main(spec_file):
    """Edit the file in place, keeping its bytes otherwise."""
    with open(spec_file, encoding="utf-8") as source:
        spec = json.load(source)
    try:
        path = inside(spec["root"], spec["path"])
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as source:
            text = source.read()
        text = replaced(text, spec["replace"], spec["by"], spec["count"])
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as sink:
            sink.write(text)
    except ValueError as error:
        raise SystemExit(f"{error}\n  wanted because {spec['why']}") from None


if __name__ == "__main__":
    main(sys.argv[1])
