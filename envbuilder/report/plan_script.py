"""A plan as a shell script that a person can read and run by hand; it builds the same tree.

The tree is relocatable but for the paths in `bin/activate`; by default the script builds it in the working directory, since
the path in the store belongs to the store.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator

from envbuilder.pip_config import FOREIGN, redact
from envbuilder.plan import SEALED_AT, Action, Fetch, Forget, Move, Plan, Product, Remove, Run, Seal, Step, Write

_HEAD = """\
#!/bin/sh
# Builds {name} as {identifier}.
# Written by envbuilder; it needs nothing of envbuilder but uv.
set -eu
umask 022

say() {{ printf '%s\\n' "$*" >&2; }}
"""

_TAIL = """
say built {prefix}
say activate it with: . {activate}
"""


def render(plan: Plan) -> str:
    """The script's text, for a POSIX shell."""
    lines = [_HEAD.format(name=plan.name, identifier=plan.identifier)]
    lines += _network(plan)
    for step in plan.steps:
        lines += _step(step, plan)
    lines.append(_TAIL.format(prefix=_quoted(plan.prefix), activate=_quoted(plan.prefix / "bin" / "activate")))
    return "\n".join(lines)


def _step(step: Step, plan: Plan) -> Iterator[str]:
    if not isinstance(step, Product):
        yield from _lines(step, plan)
        return
    yield f"\nif [ ! -e {_quoted(step.path)} ]; then"
    for inner in step.actions:
        yield from _step(inner, plan)
    yield "fi"


def _network(plan: Plan) -> list[str]:
    """Where artefacts come from; credentials are left out and asked for."""
    lines = [f"unset {' '.join(sorted(FOREIGN))} || :"]
    lines.append("# pip's configuration on this machine, as uv reads it; and a cache that envbuilder shares.")
    for name, value in sorted(plan.network.items()):
        shown = redact(value)
        if shown != value:
            lines.append(f"# fill in the credentials that are left out here (***):\n: {shlex.quote(shown)}")
        lines.append(f"export {name}={shlex.quote(shown)}")
    return lines


def _lines(action: Action, plan: Plan) -> Iterator[str]:
    yield f"\nsay {shlex.quote(action.title)}"
    match action:
        case Run():
            yield _run(action, plan)
        case Write(path=path, text=text, executable=executable):
            yield f"mkdir -p {_quoted(path.parent)}"
            yield from _here_document(path, text)
            yield f"chmod {'755' if executable else '644'} {_quoted(path)}"
        case Remove(path=path):
            yield f"rm -rf {_quoted(path)}"
        case Move(source=source, target=target):
            yield f"mkdir -p {_quoted(target.parent)}"
            yield f"mv -T {_quoted(source)} {_quoted(target)}"
        case Fetch():
            yield from _fetch(action)
        case Forget(prefix=prefix, name=name):
            yield f"for info in {_quoted(prefix)}/lib/python*/site-packages/*.dist-info; do"
            yield f'  [ -e "$info"/{shlex.quote(name)} ] || continue'
            yield f'  rm "$info"/{shlex.quote(name)}'
            # a new file, since RECORD may be a hard link into uv's cache
            yield f'  grep -v -F {shlex.quote(f"/{name},")} "$info/RECORD" > "$info/RECORD.new"'
            yield '  mv "$info/RECORD.new" "$info/RECORD"'
            yield "done"
        case Seal(folder=folder, check=True):
            yield f"(cd {_quoted(folder)} && sha256sum --check --quiet SHA256SUMS)"
        case Seal(folder=folder):
            sums = f"{folder}.sums"
            yield f"(cd {_quoted(folder)} && LC_ALL=C sha256sum -- *) > {_quoted(sums)}"
            yield f"mv {_quoted(sums)} {_quoted(folder / 'SHA256SUMS')}"
            yield f"(cd {_quoted(folder)} && touch -d @{SEALED_AT} -- *)"


def _fetch(action: Fetch) -> Iterator[str]:
    """Have a file: curl reads SSL_CERT_FILE and proxies as the rest does; a commit was made a file when it was locked."""
    path = _quoted(action.path)
    yield f"if [ ! -e {path} ]; then"
    if action.parts:
        yield f"  say {shlex.quote(f'{action.path} is not there any more: lock again')}"
        yield "  exit 1"
    else:
        yield f"  mkdir -p {_quoted(action.path.parent)}"
        yield f"  curl --fail --location --silent --show-error --output {path}.part -- {shlex.quote(redact(action.url))}"
        yield f"  mv {path}.part {path}"
    yield "fi"
    yield f"printf '%s  %s\\n' {action.sha256} {path} | sha256sum --check --quiet"


def _run(step: Run, plan: Plan) -> str:
    words = ["env"]
    if step.clean:
        words += ["-i", *(shlex.quote(f"{name}={value}") for name, value in plan.effect.apply({}).items())]
    words += [shlex.quote(f"{name}={value}") for name, value in step.env.items()]
    if len(words) > 1 and "=" in step.argv[0]:
        words += ["sh", "-c", shlex.quote('exec "$@"'), "sh"]  # env would take such a path for a variable
    words += [shlex.quote(word) for word in step.argv]
    line = " ".join(words if len(words) > 1 + len(step.argv) else words[1:])
    return f"(cd {_quoted(step.cwd)} && {line})" if step.cwd else line


def _here_document(path: object, text: str) -> Iterator[str]:
    """A quoted here-document: the shell changes nothing in it. The mark is one that the text cannot hold."""
    mark = f"END-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if text and not text.endswith("\n"):
        yield f"printf %s {shlex.quote(text)} > {_quoted(path)}"
        return
    yield f"cat > {_quoted(path)} <<'{mark}'\n{text}{mark}"


def _quoted(path: object) -> str:
    return shlex.quote(str(path))
