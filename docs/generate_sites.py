"""The pages of the shipped sites: what a centre's manual tells, made from its file alone.

Nothing here depends on the day: a page prints the dates of its facts and lets the reader compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any

import site_words as words
from markup import HEAD, NO_USER, cell, table

from envbuilder import catalog, job
from envbuilder.document import load_yaml, read_text
from envbuilder.errors import InputError
from envbuilder.externals import External
from envbuilder.fit import misfit
from envbuilder.partition import Partition
from envbuilder.recipe import Recipe
from envbuilder.site import Qos, Site, Source

FOLDER = "sites"
ACCOUNT, MINUTES = "ACCOUNT", 60
# How the names of 64-bit Arm begin in archspec; every other `cpu.target` is taken for x86-64.
ARM = ("a64fx", "armv", "cortex", "graviton", "m1", "m2", "neoverse", "thunderx")


def pages() -> dict[str, str]:
    """The pages by path below docs/reference: one for each shipped site, and their index."""
    recipes = [catalog.merged(origin, NO_USER)[0] for origin in catalog.recipes(NO_USER)]
    found = [catalog.find_site(str(origin.path), NO_USER) for origin in catalog.sites(NO_USER)]
    made = {}
    for site, origin in found:
        stated = load_yaml(read_text(origin.path, "site"), origin.path.name).plain()
        made[f"{FOLDER}/{site.name}.md"] = "\n".join(_page(site, stated, recipes))
    return {f"{FOLDER}/index.md": "\n".join(_index([site for site, _ in found])), **made}


def _index(sites: list[Site]) -> Iterator[str]:
    yield HEAD + "# Shipped sites\n"
    yield (
        "What is known of a machine: its nodes, its modules, the rules of its batch system, and where each fact comes from. "
        "The facts were read in the documents that are named; nobody measured them on these machines. `envbuilder sites show "
        "NAME` prints the same; a file of yours with the same name comes first "
        "([bring your own site](../../howto/bring-your-own-site.md)).\n"
    )
    yield from table(("site", "machine", "partitions", "newest source"), map(_index_row, sites))
    yield "The keys of a site file: [sites](../site.md). What recipes need: [shipped recipes](../shipped.md).\n"


def _index_row(site: Site) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in site.partitions)
    return (f"[{site.name}]({site.name}.md)", cell(words.prose(site.summary, site)), names, words.newest(site) or "-")


# One site


def _page(site: Site, stated: Mapping[str, Any], recipes: list[Recipe]) -> Iterator[str]:
    """`stated` is the file as it was written: a default is no fact, and must not be shown as one."""
    yield HEAD + f"# Site {site.name}\n"
    yield f"{words.prose(site.summary, site)}.\n"
    yield from _validity(site)
    if site.description:
        yield f"{words.prose(str(site.description).strip(), site)}\n"
    yield from _machine(site)
    yield "## Partitions\n"
    yield from table(
        (
            "partition",
            "facts hold",
            "CPU",
            "GPU",
            "toolkit",
            "Python",
            "MPI",
            "its soname",
            "internet",
            "HOME on nodes",
        ),
        (_overview(name, one, stated) for name, one in site.partitions.items()),
    )
    for name in site.partitions:
        yield from _partition(site, name, stated["partitions"][name], recipes)
    yield from _qualities(site)
    yield from _sources(site)


def _validity(site: Site) -> Iterator[str]:
    read = f" The newest source is of {newest}." if (newest := words.newest(site)) else ""
    if site.valid_from or site.valid_until or read:
        yield f"**{words.sentence(words.span(site.valid_from, site.valid_until))}**{read}\n"
    if site.valid_until:
        after = f"; its successor is `{site.successor}`" if site.successor else ""
        yield f"After {site.valid_until} these facts are history, and `envbuilder build` warns{after}.\n"


def _machine(site: Site) -> Iterator[str]:
    modules, rules, paths = site.modules, site.scheduler, site.paths
    where = ", ".join(f"{key} `{pattern}`" for key, pattern in site.detect.items())
    system = {"lmod": "Lmod", "tcl": "environment-modules", "none": ""}[modules.system]
    verbs = [f"go back with `module {modules.reset}`"] if modules.reset else []
    verbs += [f"`module {verb}` breaks things"] if (verb := "`, `module ".join(modules.forbidden)) else []
    verbs += [f"`module` is defined by `{modules.init}`"] if modules.init else []
    must = ", ".join(f"`--{name}`" for name in rules.required)
    jobs = [f"every job says {must}"] if must else []
    jobs += [f"jobs inherit nothing but what they say (`--export={rules.export}`)"] if rules.export == "none" else []
    jobs += ["`module` is there in a job only if its shell is a login shell"] if rules.login_shell else []
    jobs += [f"always {words.codes(rules.options)}"] if rules.options else []
    jobs += [f"always to srun {words.codes(rules.srun_options)}"] if rules.srun_options else []
    places = [f"store in `{paths.root}`"] if paths.root else []
    places += [f"a new store can be read by: {paths.readable_by}"] if paths.readable_by else []
    places += [f"caches in `{paths.caches}`"] if paths.caches else []
    places += [] if paths.home_on_compute else ["HOME is not there on compute nodes"]
    rows = [
        ("you are on it if", where, ()),
        ("modules", "; ".join([system, *verbs]) if system else "", modules.source),
        ("batch system", "; ".join(["Slurm", *jobs]) if rules.kind == "slurm" else "", rules.source),
        ("files", "; ".join(places), paths.source),
        (
            "may be preloaded",
            "; ".join(f"`{one.library}`: {words.prose(one.why, site)}" for one in site.allowed_preloads),
            tuple(dict.fromkeys(key for one in site.allowed_preloads for key in one.source)),
        ),
        ("images", words.container(site), site.container.source),
        ("mirrors", "; ".join(f"`{old}` is `{new}`" for old, new in site.mirrors.items()), ()),
        ("a proof holds", words.proof(site), ()),
    ]
    yield from table(
        ("machine", "", "sources"), ((name, cell(text), words.cited(keys)) for name, text, keys in rows if text)
    )


def _overview(name: str, one: Partition, stated: Mapping[str, Any]) -> tuple[str, ...]:
    internet = stated["partitions"][name].get("internet")
    home = stated.get("paths", {}).get("home_on_compute")
    return (
        f"[{name}](#partition-{words.anchor(name)})",
        words.span(one.valid_from, one.valid_until, short=True) or "-",
        words.cpu(one, short=True) or "-",
        words.gpu(one) or "-",
        f"`{one.gpu.toolkit}`" if one.gpu.toolkit else "-",
        one.python.version or "not stated",
        words.mpi_name(one),
        f"`{one.mpi.soname}`" if one.mpi.soname else "not stated",
        *({True: "yes", False: "no", None: "not stated"}[value] for value in (internet, home)),
    )


# One partition


def _partition(site: Site, name: str, stated: Mapping[str, Any], recipes: list[Recipe]) -> Iterator[str]:
    one = site.partitions[name]
    yield f"## Partition {name}\n"
    yield f"{words.sentence(words.prose(one.summary, site) or 'these nodes')}\n"
    yield from _ended(site, name, one)
    yield from table(("fact", "value", "sources"), _facts(one, stated))
    yield from _modules(site, name, one)
    yield from _job(site, name, one)
    yield from _fits(site, name, one, recipes)
    if one.notes:
        yield f"### {name}: notes and traps\n"
        yield from (f"- {words.prose(note, site)}" for note in one.notes)
        yield ""


def _ended(site: Site, name: str, one: Partition) -> Iterator[str]:
    if _history(site, one):
        others = [
            f"`{other}`" for other, two in site.partitions.items() if other != name and _follows(one, two)
        ]  # fmt: skip
        after = f" On the same nodes {' and '.join(others)} followed." if others else ""
        yield f"**History: these facts ended on {one.valid_until}.**{after} They are kept for the record and for old locks.\n"
    elif one.valid_until:
        yield f"**These facts end on {one.valid_until}.**\n"


def _history(site: Site, one: Partition) -> bool:
    """Whether it had ended when the newest of the sources was written."""
    return bool(one.valid_until) and one.valid_until < words.newest(site)


def _follows(one: Partition, two: Partition) -> bool:
    nodes = one.scheduler.partition
    same = (nodes, one.scheduler.constraint) == (two.scheduler.partition, two.scheduler.constraint)
    return bool(nodes) and same and bool(two.valid_from) and two.valid_from > one.valid_until


def _facts(one: Partition, stated: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    network = [f"`{one.fabric}`"] if one.fabric else []
    if "internet" in stated:
        network.append("the nodes reach the internet" if one.internet else "the nodes do not reach the internet")
    python = [f"`{one.python.command}`"] if one.python.command else []
    python.append(one.python.version or "version not stated: a build looks")
    where = {"login": "on a login node", "compute": "in a job on these nodes"}
    fortran = [f"`{one.compilers.fc}`"] if one.compilers.fc else []
    rows = [
        ("the stack", words.span(one.valid_from, one.valid_until) or "no dates are stated", one.source),
        ("offers", ", ".join(f"`{feature}`" for feature in one.offers()), ()),
        ("CPU", words.cpu(one), one.cpu.source),
        ("GPU", words.gpu(one) + (f", `{one.gpu.toolkit}`" if one.gpu.toolkit else ""), one.gpu.source),
        ("network", "; ".join(network), ()),
        ("builds", where[one.builds_on] if "builds_on" in stated else "", ()),
        ("Python", " ".join(python), one.python.source),
        ("MPI", words.mpi(one), one.mpi.source),
        ("compilers", ", ".join([f"`{one.compilers.cc}`", f"`{one.compilers.cxx}`", *fortran]), one.compilers.source),
        ("conda's virtual packages", ", ".join(f"`{key}` {value}" for key, value in one.virtual_packages.items()), ()),
        ("batch", words.batch(one), one.scheduler.source),
        ("launch", words.launch(one), one.launch.source),
        *(("for Spack", _external(external), external.source) for external in one.externals),
    ]
    yield from ((name, cell(text), words.cited(keys)) for name, text, keys in rows if text)


def _external(one: External) -> str:
    where = [f"in `{one.prefix}`"] if one.prefix else []
    where += [f"by {', '.join(f'`{name}`' for name in one.modules)}"] if one.modules else []
    return " ".join((f"`{one.spec}`", *where))


def _modules(site: Site, name: str, one: Partition) -> Iterator[str]:
    if not (one.modules or one.exports_after_modules):
        return
    lines = [f". {site.modules.init}"] if site.modules.init else []
    lines += [f"module {site.modules.reset}"] if site.modules.reset else []
    lines += [f'module use "{folder}"' for folder in one.module_paths]
    lines += [f"module load {quote(module)}" for module in one.modules]
    for export in one.exports_after_modules:
        lines += [f"# {' '.join(export.why.split())}"]
        if export.unset:
            lines.append(f"unset {export.unset}")
        elif export.prepend:
            path = export.prepend
            lines.append(f'export {path}="{export.to}${{{path}:+:${path}}}"')
        else:
            lines.append(f'export {export.set}="{export.to}"')
    yield f"### {name}: modules\n"
    yield "In this order. A build loads them itself and keeps what they did; an activation needs no module.\n"
    yield f"```bash\n{chr(10).join(lines)}\n```\n"
    if one.promises:
        yield f"Afterwards {words.codes(one.promises)} must have a value; a build stops where one has none.\n"


def _job(site: Site, name: str, one: Partition) -> Iterator[str]:
    if site.scheduler.kind == "none":
        return
    yield f"### {name}: a job\n"
    try:
        nodes, ranks, header = _header(site, one)
    except InputError as error:
        yield f"No example can be given: {words.prose(error.message, site)}.\n"
        return
    shape = job.shape_for(one, nodes=nodes, ranks=ranks, minutes=MINUTES)
    lines = [f"#!/bin/bash{' --login' if site.scheduler.login_shell else ''}"]
    lines += [f"#SBATCH {option}" for option in header]
    lines += ["", *(f"export {key}={quote(value)}" for key, value in one.launch.env.items())]
    start = {"srun": " ".join(job.srun(site, one, shape)), "mpiexec": f"mpiexec -n {ranks}"}
    launcher = start.get(one.launch.launcher, "" if one.launch.launcher == "direct" else f"mpiexec -n {ranks}")
    lines.append(f"{launcher} python train.py".strip())
    yield (
        f"{ranks} ranks on {words.count(nodes, 'node')} for an hour; `{ACCOUNT}` is yours to replace. "
        f"`envbuilder job ENV --nodes {nodes} --ranks {ranks} --time {MINUTES} -- python train.py` prints the whole script, "
        "with the modules and the gate before the launch.\n"
    )
    yield f"```bash\n{chr(10).join(lines)}\n```\n"


def _header(site: Site, one: Partition) -> tuple[int, int, tuple[str, ...]]:
    """A job on two nodes, on one where no QoS holds two; with a rank for each GPU, else two a node."""
    qos = "QOS" if "qos" in site.scheduler.required and not site.scheduler.qos else ""
    billing = job.Billing(account=ACCOUNT if "account" in site.scheduler.required else "", qos=qos)
    for nodes in (2, 1):
        ranks = nodes * (one.gpu.count or 2)
        shape = job.shape_for(one, nodes=nodes, ranks=ranks, minutes=MINUTES)
        try:
            return nodes, ranks, job.directives(site, one, shape, billing, name="train", output="%x-%j.out")
        except InputError:
            if nodes == 1:
                raise
    raise AssertionError


def _fits(site: Site, name: str, one: Partition, recipes: list[Recipe]) -> Iterator[str]:
    rows, fitting = [], []
    for recipe in recipes:
        version, why = _variant(recipe, site, name, one)
        link = f"[{recipe.name}](../shipped.md#recipe-{recipe.name})"
        if version:
            fitting.append(recipe)
        rows.append((link, version or "does not fit", cell(words.prose(why, site))))
    yield f"### {name}: recipes\n"
    if not one.python.version:
        yield "The Python here is not stated: a variant that fits below still needs one of its versions of Python.\n"
    yield from table(("recipe", "variant that is taken", "why not"), rows)
    if fitting and not _history(site, one):
        yield from _commands(site, name, one, next((one for one in fitting if "gpu" in one.features), fitting[-1]))


def _variant(recipe: Recipe, site: Site, name: str, one: Partition) -> tuple[str, str]:
    """The first row that fits, or nothing and why no row does."""
    arch = "aarch64" if one.cpu.target.startswith(ARM) else "x86_64"
    facts = {
        "site": site.name,
        "partition": name,
        "arch": arch,
        "gpu": one.gpu.vendor,
        "mpi": one.mpi.name or "any",
        "provider": one.mpi.provider,
    }
    reasons = {row.version: misfit(recipe, row, one, facts) for row in recipe.variants}
    taken = next((version for version, reason in reasons.items() if not reason), "")
    if taken:
        return str(taken), ""
    told = {reason: [row for row, other in reasons.items() if other == reason] for reason in reasons.values()}
    if len(told) == 1:
        return "", next(iter(told))
    return "", "; ".join(f"{', '.join(rows)}: {reason}" for reason, rows in told.items())


def _commands(site: Site, name: str, one: Partition, recipe: Recipe) -> Iterator[str]:
    lines = [f"export ENVBUILDER_SITE={site.name}"]
    proof = f"envbuilder verify {recipe.name}"
    if site.scheduler.kind != "none":
        if "account" in site.scheduler.required:
            lines.append(f"export ENVBUILDER_ACCOUNT={ACCOUNT}")
        try:
            nodes, ranks, _ = _header(site, one)
            proof += f" --nodes {nodes} --ranks {ranks}"
        except InputError:
            pass
    lines += [f"envbuilder build {recipe.name} --partition {name}", proof]
    yield "Build one and prove it:\n"
    yield f"```bash\n{chr(10).join(lines)}\n```\n"
    if one.builds_on == "compute":
        yield (
            "Environments are installed on these nodes: `build` looks at them in a job, downloads where it was started, and "
            "installs in a second job.\n"
        )


# Rules and sources


def _qualities(site: Site) -> Iterator[str]:
    if site.scheduler.qos:
        yield "## Qualities of service\n"
        yield f"The first that holds a job is taken, unless `--qos` names one. {words.cited(site.scheduler.source)}\n"
        rows = (_quality(name, one) for name, one in site.scheduler.qos.items())
        yield from table(("QoS", "partitions", "nodes", "time", "options", "for"), rows)


def _quality(name: str, one: Qos) -> tuple[str, ...]:
    return (
        f"`{name}`",
        words.codes(one.partitions) or "all",
        str(one.max_nodes or "-"),
        f"{one.max_minutes // 60}:{one.max_minutes % 60:02d}:00" if one.max_minutes else "-",
        words.codes(one.options) or "-",
        cell(one.why) or "-",
    )


def _sources(site: Site) -> Iterator[str]:
    if site.sources:
        yield "## Sources\n"
        yield from (_source(key, one) for key, one in site.sources.items())
        yield ""


def _source(key: str, one: Source) -> str:
    title = one.title.replace("[", "(").replace("]", ")")
    parts = [f"[{title}]({one.url})" if one.url else title]
    parts += [f"revision `{one.revision}`"] if one.revision else []
    parts += [one.date] if one.date else []
    return f'- <a id="source-{key}"></a>**{key}**: {", ".join(parts)}'
