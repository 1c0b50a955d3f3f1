"""What a centre's own configuration of Spack says of its machine: `packages.yaml`, `compilers.yaml`, and Benchpark's files.

Read from documents; nothing is looked at. Forms of Spack before 1.0 are understood: `compilers.yaml`, compilers in the specs
of externals, `paths` and `modules` of packages. What cannot be used is kept as a remark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from envbuilder import spec_text
from envbuilder.document import Node, Text
from envbuilder.errors import InputError
from envbuilder.externals import LANGUAGES, External
from envbuilder.partition import KEY, PATH
from envbuilder.recipe import MODULE_FILE
from envbuilder.spec import Spec
from envbuilder.spec_versions import compare

MPIS = ("cray-mpich", "openmpi", "mpich", "mvapich2", "mvapich", "intel-oneapi-mpi", "spectrum-mpi", "hpcx-mpi")
# what compilers were called before they were packages
_COMPILERS = {
    "clang": "llvm",
    "dpcpp": "intel-oneapi-compilers",
    "intel": "intel-oneapi-compilers-classic",
    "oneapi": "intel-oneapi-compilers",
    "rocmcc": "llvm-amdgpu",
}
_PATHS = {"cc": "c", "cxx": "cxx", "fc": "fortran"}
_ACCELERATORS = {"amd": "amd", "intel": "intel", "nvidia": "nvidia"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Centre:
    """What was found: externals in the order of the files, what they are meant for, remarks on what was left out."""

    externals: tuple[External, ...] = ()
    mpi: str = ""
    target: str = ""
    gpu_vendor: str = ""
    gpu_model: str = ""
    gpu_arch: str = ""
    gpus: int = 0
    cores: int = 0
    fabric: str = ""
    scheduler: str = ""
    module_system: str = ""
    remarks: tuple[str, ...] = ()

    def first(self, *names: str) -> External | None:
        """The newest external of the first of these packages that there is one of."""
        for name in names:
            found = [one for one in self.externals if one.name == name]
            if found:
                return max(found, key=lambda one: _Order(version_of(one)))
        return None


def version_of(external: External) -> str:
    """The version of an external."""
    versions = spec_text.parse(external.spec).versions
    return versions.single if versions else ""


class _Order:
    """Versions for `max`."""

    def __init__(self, version: str) -> None:
        self.version = version

    def __lt__(self, other: _Order) -> bool:
        return compare(self.version, other.version) < 0


def read(documents: Mapping[str, Node]) -> Centre:
    """What the documents say, by the names of their files; raises `InputError` with the place of what is wrong."""
    remarks: list[str] = []
    packages = _packages(documents)
    externals = [*_externals(packages, remarks)]
    if "compilers.yaml" in documents:
        externals += _legacy(_section(documents["compilers.yaml"], "compilers"), externals, remarks)
    return _benchpark(
        documents,
        Centre(
            externals=tuple(_unambiguous(externals, remarks)),
            mpi=_provider(packages, externals),
            module_system=_module_system(documents),
            remarks=tuple(remarks),
            **_all(packages.get("all")),
        ),
    )


def _packages(documents: Mapping[str, Node]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for name in ("spack.yaml", "packages.yaml"):
        if name in documents:
            root = _entries(documents[name]).get("spack", documents[name]) if name == "spack.yaml" else documents[name]
            found |= _entries(_section(root, "packages"))
    return found


def _section(node: Node, key: str) -> Node:
    return _entries(node).get(key, Node({}, node.mark, key))


def _entries(node: Node) -> dict[str, Node]:
    """A mapping; Spack's `key::`, which overrides, is the key."""
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise InputError(f"{node.mark}: {node.path}: must be a mapping", hint="see Spack's documentation of this file")
    return {key.rstrip(":"): child for key, child in node.value.items()}


def _items(node: Node | None) -> list[Node]:
    """A list; a single value stands for a list of one."""
    if node is None or node.value is None:
        return []
    return node.value if isinstance(node.value, list) else [node]


def _text(node: Node | None) -> str:
    return "" if node is None or node.value is None or isinstance(node.value, (dict, list)) else node.raw


def _externals(packages: Mapping[str, Node], remarks: list[str]) -> Iterator[External]:
    for name, node in packages.items():
        entries = _entries(node)
        for item in _items(entries.get("externals")):
            keys = _entries(item)
            attributes = _entries(keys["extra_attributes"]) if "extra_attributes" in keys else {}
            compilers = _entries(attributes["compilers"]) if "compilers" in attributes else {}
            yield from _external(
                keys.get("spec", item),
                prefix=_text(keys.get("prefix")),
                modules=[_text(one) for one in _items(keys.get("modules"))],
                compilers={one: _text(path) for one, path in compilers.items() if one in LANGUAGES},
                remarks=remarks,
            )
        for key in ("paths", "modules"):  # before Spack 0.16
            if key in entries and isinstance(entries[key].value, dict):
                for text, value in _entries(entries[key]).items():
                    written = Text.at(text if text.startswith(name) else f"{name}{text}", value.mark)
                    spec = Node(written, value.mark, value.path, text)
                    where = {"prefix": _text(value)} if key == "paths" else {"modules": [_text(value)]}
                    yield from _external(spec, remarks=remarks, **where)


def _external(
    node: Node,
    *,
    remarks: list[str],
    prefix: str = "",
    modules: list[str] | None = None,
    compilers: Mapping[str, str] | None = None,
) -> Iterator[External]:
    """The external, with the compiler it was built with as its last word (`%gcc`), or nothing and a remark."""
    if not isinstance(node.value, str):
        raise InputError(f"{node.mark}: {node.path}: an external needs a spec", hint="write spec: NAME@VERSION")
    spec = spec_text.wish(node.value)
    if spec.versions is None or not spec.versions.single:
        remarks.append(f"{spec}: which version it is")
        return
    if prefix and not re.fullmatch(PATH, prefix):
        remarks.append(f"{spec.name}: its prefix {prefix} depends on Spack")
        prefix = ""
    usable = tuple(one for one in modules or () if re.fullmatch(MODULE_FILE, one))
    if not prefix and not usable:
        remarks.append(f"{spec.node}: where it is")
        return
    programs = {one: path for one, path in (compilers or {}).items() if re.fullmatch(PATH, path)}
    yield External(spec=str(spec), prefix=prefix, modules=usable, compilers=programs)


def _legacy(node: Node, known: list[External], remarks: list[str]) -> Iterator[External]:
    """Compilers of `compilers.yaml`, which Spack has as packages since 1.0."""
    for item in _items(node):
        keys = _entries(_section(item, "compiler"))
        if "spec" not in keys:
            raise InputError(f"{item.mark}: {item.path}: a compiler needs a spec", hint="write spec: gcc@12.2.0")
        spec = spec_text.wish(Text.at(_text(keys["spec"]), keys["spec"].mark))
        named = replace(spec, name=_COMPILERS.get(spec.name, spec.name))
        if any(_same(one, named) for one in known):
            continue
        paths = _entries(keys["paths"]) if "paths" in keys else {}
        programs = {_PATHS[one]: _text(path).strip() for one, path in paths.items() if one in _PATHS and _text(path)}
        first = next(iter(programs.values()), "")
        prefix = re.sub(r"/bin/[^/]+$", "", first) if "/bin/" in first else ""
        yield from _external(
            Node(Text.at(str(named), keys["spec"].mark), keys["spec"].mark, keys["spec"].path, str(named)),
            prefix=prefix or "/",
            modules=[_text(one) for one in _items(keys.get("modules"))],
            compilers=programs,
            remarks=remarks,
        )


def _same(external: External, spec: Spec) -> bool:
    other = spec_text.parse(external.spec)
    return other.name == spec.name and bool(other.versions and spec.versions and other.versions.meets(spec.versions))


def _unambiguous(found: list[External], remarks: list[str]) -> Iterator[External]:
    """One external for each spec; of several that differ in their compiler the one for gcc, which extensions need."""
    chosen: dict[str, tuple[External, bool]] = {}
    for external in found:
        spec = spec_text.parse(external.spec)
        compilers = [edge.spec.name for edge in spec.edges if edge.sigil != "^"]
        bare = str(_bare(spec))
        plain = replace(external, spec=bare)
        key = f"{spec.name}@{spec.versions}"
        if key not in chosen:
            chosen[key] = (plain, "gcc" in compilers)
            continue
        before, for_gcc = chosen[key]
        if "gcc" in compilers and not for_gcc:
            chosen[key], plain = (plain, True), before
        if plain != chosen[key][0]:
            remarks.append(
                f"{bare} at {plain.prefix or ', '.join(plain.modules)}: another of the same version, left out"
            )
    yield from (external for external, _ in chosen.values())


def _bare(spec: Spec) -> Spec:
    """The spec without its compiler; before Spack 1.0 what stood behind that was the package's own (`%gcc +wrappers`)."""
    known = {one.name: one for one in spec.variants}
    for edge in spec.edges:
        known = {**{one.name: one for one in edge.spec.variants}, **known}
    return replace(spec, variants=tuple(known[name] for name in sorted(known)), edges=())


def _provider(packages: Mapping[str, Node], externals: list[External]) -> str:
    providers = _entries(_section(packages["all"], "providers")) if "all" in packages else {}
    wanted = [_text(one) for one in _items(providers.get("mpi"))]
    if "mpi" in packages:
        wanted += [_text(one) for one in _items(_entries(packages["mpi"]).get("require"))]
    names = [spec_text.parse(text).name for text in wanted if text]
    there = {one.name for one in externals}
    return next((name for name in (*names, *MPIS) if name in there), "")


def _all(node: Node | None) -> dict[str, Any]:
    """What is wanted of all packages: the target, and the GPU's architecture."""
    found: dict[str, Any] = {}
    entries = _entries(node) if node is not None else {}
    targets = [_text(one) for one in _items(entries.get("target"))]
    specs = [_text(one) for key in ("require", "variants", "prefer") for one in _items(entries.get(key))]
    for text in filter(None, specs):
        spec = spec_text.parse(text)
        targets += [spec.target] if spec.target else []
        for variant, vendor, form in (("amdgpu_target", "amd", "{}"), ("cuda_arch", "nvidia", "sm_{}")):
            value = spec.variant(variant)
            if value is not None and isinstance(value.value, tuple) and value.value[0] != "none":
                found |= {"gpu_vendor": vendor, "gpu_arch": form.format(value.value[0])}
    target = next((one for one in targets if re.fullmatch(KEY, one)), "")
    return {**found, "target": target} if target else found


def _module_system(documents: Mapping[str, Node]) -> str:
    if "modules.yaml" not in documents:
        return ""
    sets = _entries(_section(documents["modules.yaml"], "modules"))
    entries = [_entries(node) for node in sets.values() if isinstance(node.value, dict)]
    enabled = [_text(one) for entry in entries for one in _items(entry.get("enable"))]
    return next((one for one in enabled if one in ("lmod", "tcl")), "")


def _benchpark(documents: Mapping[str, Node], centre: Centre) -> Centre:
    """What Benchpark's `system_definition.yaml` and `variables.yaml` add."""
    changes: dict[str, Any] = {}
    if "system_definition.yaml" in documents:
        system = _entries(_section(documents["system_definition.yaml"], "system_definition"))
        parts = {
            one: _entries(system[one]) if one in system else {} for one in ("processor", "accelerator", "interconnect")
        }
        processor, accelerator = parts["processor"], parts["accelerator"]
        fabric = _text(parts["interconnect"].get("name")).lower()
        changes |= {"fabric": fabric} if re.fullmatch(KEY, fabric) else {}
        target = _text(processor.get("uArch"))
        changes |= {"target": target} if not centre.target and re.fullmatch(KEY, target) else {}
        vendor = _ACCELERATORS.get(_text(accelerator.get("vendor")).lower(), "")
        if vendor and not centre.gpu_vendor:
            arch = _text(accelerator.get("uArch")).lower()
            changes |= {"gpu_vendor": vendor, "gpu_arch": arch if re.fullmatch(r"[a-z0-9_-]+", arch) else ""}
        changes |= {"gpu_model": _text(accelerator.get("name"))} if vendor else {}
    if "variables.yaml" in documents:
        variables = _entries(_section(documents["variables.yaml"], "variables"))
        for key, names in (("cores", ("sys_cores_per_node", "sys_cpus_per_node")), ("gpus", ("sys_gpus_per_node",))):
            number = next((text for name in names if (text := _text(variables.get(name))).isdigit()), "")
            changes |= {key: int(number)} if number and 0 < int(number[:9]) <= 100_000 else {}
        changes["scheduler"] = _text(variables.get("scheduler"))
    return replace(centre, **changes)
