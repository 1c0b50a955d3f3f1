"""How the facts of a site file are said on its page."""

from __future__ import annotations

import re

from envbuilder.partition import Partition
from envbuilder.site import Site

_KEYS = re.compile(r"\[([A-Za-z][A-Za-z0-9_.+-]*(?:, [A-Za-z][A-Za-z0-9_.+-]*)*)\]")
_MARKS = re.compile(r"([*\\]|(?<!\w)_|_(?!\w))")


def cpu(one: Partition, *, short: bool = False) -> str:
    """The processors of a node."""
    facts = one.cpu
    parts = [str(facts.model)] if facts.model else []
    parts += [f"{facts.cores} cores for jobs"] if facts.cores else []
    if short:
        return ", ".join(parts)
    parts += [f"`{facts.target}`"] if facts.target else []
    parts += [count(facts.numa, "NUMA region")] if facts.numa else []
    parts += [f"{facts.memory_gib} GiB"] if facts.memory_gib else []
    return ", ".join(parts)


def gpu(one: Partition) -> str:
    """The GPUs of a node; nothing where there are none."""
    facts = one.gpu
    if facts.vendor == "none":
        return ""
    many = f"{facts.count}x " if facts.count else ""
    return f"{many}{facts.model or facts.vendor}{f' (`{facts.arch}`)' if facts.arch else ''}"


def mpi_name(one: Partition) -> str:
    """Which MPI it is."""
    plain = {"detect": "what is found", "wheel": f"{one.mpi.package} wheel", "none": "none", "system": "the system's"}
    return " ".join(part for part in (one.mpi.name, one.mpi.version) if part) or plain[one.mpi.provider]


def mpi(one: Partition) -> str:
    """The MPI with all that is stated of it."""
    if one.mpi.provider == "none":
        return "none"
    parts = [mpi_name(one)]
    parts += [f"wrapper `{one.mpi.mpicc}`"] if one.mpi.provider in {"system", "detect"} else []
    parts += [f"every rank must have mapped `{one.mpi.soname}`"] if one.mpi.soname else []
    parts += [f"for GPU memory `{one.mpi.gtl}`"] if one.mpi.gtl else []
    return "; ".join(parts)


def batch(one: Partition) -> str:
    """What a job for this partition says."""
    rules = one.scheduler
    gpus = {
        "none": "",
        "total": "GPUs as `--gpus` of the whole job",
        "per-node": "GPUs as `--gpus-per-node`",
        "gres": f"GPUs as `--gres={rules.gres}:N`",
        "per-task": "GPUs as `--gpus-per-task`",
    }[rules.gpus]
    parts = [f"partition `{rules.partition}`"] if rules.partition else []
    parts += [f"constraint `{rules.constraint}`"] if rules.constraint else []
    parts += [gpus] if gpus else []
    parts += [f"always {codes(rules.options)}"] if rules.options else []
    parts += [f"sbatch must not have {codes(tuple(f'--{name}' for name in rules.refuses))}"] if rules.refuses else []
    return "; ".join(parts)


def launch(one: Partition) -> str:
    """How ranks are started."""
    facts = one.launch
    parts = [f"`{facts.launcher}`"] if facts.launcher else []
    parts += [f"with {codes(facts.options)}"] if facts.options else []
    parts += [f"`{key}={value}`" for key, value in facts.env.items()]
    return "; ".join(parts)


def span(start: str, end: str, *, short: bool = False) -> str:
    """From when to when facts hold; nothing where no day is stated."""
    if short:
        return f"{start or '...'} to {end or '...'}" if start or end else ""
    if start and end:
        return f"valid from {start} until {end}"
    return f"valid from {start}" if start else f"valid until {end}" if end else ""


def newest(site: Site) -> str:
    """The date of the newest source, which is when the file's author last looked."""
    return max((one.date for one in site.sources.values() if one.date), default="")


def cited(keys: tuple[str, ...]) -> str:
    """Keys of sources, as links to where the page lists them."""
    return ", ".join(f"[{key}](#source-{key})" for key in keys)


def codes(texts: tuple[str, ...]) -> str:
    """Texts, each as code."""
    return ", ".join(f"`{text}`" for text in texts)


def count(number: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def anchor(name: str) -> str:
    """The name of a partition as a heading's address has it."""
    return re.sub(r"[^\w-]", "", name)


def proof(site: Site) -> str:
    """What the gate asks of a proof."""
    rules = site.proof
    signed = "; it must be signed" if rules.signed else ""
    by = f", by one of `{rules.allowed_signers}`" if rules.allowed_signers else ""
    image = f"; images must be signed with `{rules.image_key}`" if rules.image_key else ""
    return f"{rules.max_age_hours} hours{signed}{by}{image}"


def container(site: Site) -> str:
    """How images are run, and what they get of the host."""
    one = site.container
    parts = [f"run by {one.runtime}"] if one.runtime else []
    binds = codes((*one.binds, *one.optional_binds))
    parts += [f"each gets {binds}"] if binds else []
    for key, side in one.mpi.items():
        more = f", where they are there {codes(side.optional_binds)}" if side.optional_binds else ""
        folders = f"; libraries from {codes(side.library_path)}" if side.library_path else ""
        parts.append(f"with the host's `{key}` {codes(side.binds)}{more}{folders} {cited(side.source)}".strip())
    return "; ".join(parts)


def prose(text: str, site: Site) -> str:
    """A text of a site file as Markdown: what is in backticks stays, marks are escaped, keys of sources become links."""
    parts = str(text).split("`")
    for place in range(0, len(parts), 2):
        plain = _MARKS.sub(r"\\\1", parts[place]).replace("<", "&lt;") if len(parts) % 2 else parts[place]
        parts[place] = _KEYS.sub(lambda match: _links(match, site), plain)
    return "`".join(parts)


def _links(match: re.Match[str], site: Site) -> str:
    keys = match[1].split(", ")
    return f"({cited(tuple(keys))})" if all(key in site.sources for key in keys) else match[0]
