"""Make a tree that Spack copied stand for itself: `relocate.py QUESTION`.

The question names the `tree` and where the packages were installed (`prefixes`). Each prefix is replaced by the tree's path,
which is filled up with slashes: lengths stay, so strings in binaries, search paths of ELF objects and bytecode stay whole. Of
Spack's own notes on the packages only `spec.json` is kept: the others tell of the user.
"""

import json
import os
import shutil
import stat
import sys

NOTES = ".spack"


def padded(tree, prefix):
    """The tree's path, as long as a prefix; raises `ValueError` where it is longer."""
    if len(tree) > len(prefix):
        raise ValueError(
            f"the path of the tree is {len(tree) - len(prefix)} bytes too long to stand in the place of {os.fsdecode(prefix)}"
        )
    return tree + b"/" * (len(prefix) - len(tree))


def relocate(path, places):
    """Replace the prefixes in one file; its time stays, which bytecode is compared with."""
    with open(path, "rb") as source:
        content = source.read()
    changed = content
    for prefix, place in places:
        changed = changed.replace(prefix, place)
    if changed == content:
        return
    seen = os.stat(path)
    os.chmod(path, stat.S_IMODE(seen.st_mode) | stat.S_IWUSR)
    with open(path, "r+b") as sink:
        sink.write(changed)
    os.chmod(path, stat.S_IMODE(seen.st_mode))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def relink(path, tree, prefixes):
    """Let a symbolic link into one of the packages lead into the tree."""
    target = os.fsencode(os.readlink(path))
    for prefix in prefixes:
        if target == prefix or target.startswith(prefix + b"/"):
            os.unlink(path)
            os.symlink(tree + target[len(prefix) :], path)
            return


def tidy(notes):
    """Keep nothing of Spack's notes but what was built."""
    for folder, folders, names in os.walk(notes):
        if folder == notes:
            continue
        for name in folders:
            shutil.rmtree(os.path.join(folder, name))
        folders.clear()
        for name in names:
            if name != "spec.json":
                os.unlink(os.path.join(folder, name))


def main(question):
    """Do it; returns the exit code."""
    with open(question, encoding="utf-8") as source:
        asked = json.load(source)
    tree = os.fsencode(asked["tree"])
    prefixes = sorted(map(os.fsencode, asked["prefixes"]), key=len, reverse=True)
    try:
        places = [(prefix, padded(tree, prefix)) for prefix in prefixes]
    except ValueError as error:
        sys.stdout.write(f"{error}\n")
        return 3
    tidy(os.path.join(asked["tree"], NOTES))
    for folder, folders, names in os.walk(tree):
        for name in [*names, *folders]:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                relink(path, tree, prefixes)
            elif name in names and not folder.startswith(os.path.join(tree, NOTES.encode())):
                relocate(path, places)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
