"""What is written for others: bills of materials, Containerfiles, workflows; each held against its own linter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from envbuilder import base_image, cli, contents, dpkg, places, sbom, workflows
from envbuilder.activation import Activation, Setting
from envbuilder.builders import containerfile
from envbuilder.errors import BAD_INPUT, InputError
from envbuilder.lock import Lock
from envbuilder.sbom import Bound, Contents
from envbuilder.target import Python, Target

STATUS = """\
Package: libmpich12
Status: install ok installed
Architecture: amd64
Source: mpich
Version: 4.0.2-3

Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-8)
Version: 2:2.36-9+deb12u14
Description: with
 a line
 Version: 9

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
PATCH = {
    "why": "it looks elsewhere",
    "file": "a.patch",
    "text": "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n",
    "replace": "",
    "by": "",
    "path": "",
    "count": 1,
    "sha256": "c" * 64,
}
MPI4PY = {
    "build_requires": ["setuptools"],
    "why": "it is bound to the machine's MPI",
    "sdist": "mpi4py",
    "env": {},
    "without_compiler": "wheel",
    "patches": [PATCH],
}
HOROVOD = {
    "build_requires": [],
    "why": "no wheel has MPI",
    "name": "horovod",
    "version": "0.28.1",
    "env": {},
    "without_compiler": "fail",
    "git": {"url": "https://git.example.org/horovod", "tag": "v0.28.1", "commit": "", "submodules": False},
}
COMMIT = "a" * 40
BODIES = {
    "pylock.toml": f"""\
lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "mpi4py"
version = "4.1.2"
wheels = [{{ url = "https://index.example.org/mpi4py-4.1.2-cp311-cp311-manylinux1_x86_64.whl", hashes = {{ sha256 = "{"1" * 64}" }} }}]

[[packages]]
name = "torch"
version = "2.13.0+cpu"
wheels = [
  {{ url = "https://user:secret@index.example.org/torch-2.13.0%2Bcpu-cp311-cp311-manylinux1_x86_64.whl", hashes = {{ sha256 = "{"2" * 64}" }} }},
  {{ url = "https://index.example.org/torch-2.13.0%2Bcpu-cp312-cp312-manylinux1_x86_64.whl", hashes = {{ sha256 = "{"3" * 64}" }} }},
]

[[packages]]
name = "six"
version = "1.0"
wheels = [{{ url = "file:///srv/wheels/six-1.0-py3-none-any.whl", hashes = {{ sha256 = "{"4" * 64}" }} }}]
""",
    "pylock.source-mpi4py.toml": f"""\
lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "mpi4py"
version = "4.1.2"
sdist = {{ url = "https://index.example.org/mpi4py-4.1.2.tar.gz", hashes = {{ sha256 = "{"5" * 64}" }} }}
""",
    "pylock.source-horovod.toml": f"""\
lock-version = "1.0"
created-by = "envbuilder"

[[packages]]
name = "horovod"
version = "0.28.1"
vcs = {{ type = "git", url = "https://git.example.org/horovod", commit-id = "{COMMIT}" }}
tool = {{ envbuilder = {{ sha256 = "{"6" * 64}" }} }}
""",
}
LOCK = Lock(
    request={"recipe": "both", "version": "1.0", "sources": {"mpi4py": MPI4PY, "horovod": HOROVOD}},
    site="local", partition="host", created_by={}, bodies=BODIES,
)  # fmt: skip
PYTHON = Python(path="/usr/bin/python3", version="3.11.2", soabi="cpython-311-x86_64-linux-gnu", headers=True)
TARGET = Target(
    site="", partition="", arch="x86_64", libc="", gpu="none", python=PYTHON, mpi=None, compiler=None,
)  # fmt: skip
WHOLE = Contents(
    lock=LOCK,
    target=TARGET,
    sha256="e" * 64,
    release={"id": "debian", "version": "12", "name": "Debian GNU/Linux 12 (bookworm)"},
    system=dpkg.packages(STATUS),
    bound=(
        Bound(path="/opt/cray/libmpi.so.12", soname="libmpi.so.12", sha256="f" * 64, target="/opt/envbuilder/host/x"),
    ),
)


def validate(text: str) -> str:
    """What the schema of the standard says against a bill, or nothing."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return str(found) if found is not None else ""


def components(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["bom-ref"]: one for one in bill["components"]}


def test_a_bill_joins_wheels_sources_packages_and_bound_libraries_and_fits_the_schema() -> None:
    bill = sbom.document(WHOLE)

    assert validate(json.dumps(bill)) == ""
    found = components(bill)
    assert list(found) == [
        "deb:libc6:amd64", "deb:libmpich12:amd64", "host:/opt/cray/libmpi.so.12", "pypi:six", "pypi:torch", "source:horovod", "source:mpi4py",
    ]  # fmt: skip
    torch = found["pypi:torch"]
    assert torch["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert torch["hashes"] == [{"alg": "SHA-256", "content": "2" * 64}]  # this Python's wheel, not the other's
    assert "secret" not in json.dumps(bill)
    assert "externalReferences" not in found["pypi:six"]  # a folder of some machine helps nobody
    mpi4py = found["source:mpi4py"]
    assert mpi4py["pedigree"]["patches"][0]["diff"]["text"]["content"] == PATCH["text"]
    assert mpi4py["externalReferences"][0]["hashes"] == [{"alg": "SHA-256", "content": "5" * 64}]
    assert found["source:horovod"]["pedigree"]["commits"] == [{"uid": COMMIT, "url": "https://git.example.org/horovod"}]
    libc = PackageURL.from_string(found["deb:libc6:amd64"]["purl"])
    assert (libc.namespace, libc.name, libc.version) == ("debian", "libc6", "2:2.36-9+deb12u14")
    assert libc.qualifiers == {"arch": "amd64", "distro": "debian-12"}
    assert {"name": "envbuilder:source-package", "value": "glibc 2.36-8"} in found["deb:libc6:amd64"]["properties"]
    assert found["host:/opt/cray/libmpi.so.12"]["hashes"][0]["content"] == "f" * 64
    assert all(
        PackageURL.from_string(one["purl"]).to_string() == one["purl"] for one in found.values() if "purl" in one
    )


def test_a_bill_that_breaks_the_standard_is_noticed() -> None:
    bill = sbom.document(WHOLE)

    bill["components"][0]["type"] = "nonsense"

    assert "nonsense" in validate(json.dumps(bill))


def test_a_bill_depends_on_its_contents_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sbom.document(WHOLE)

    assert sbom.document(replace(WHOLE, system=tuple(reversed(WHOLE.system or ())))) == first
    assert "timestamp" not in first["metadata"]
    other = sbom.document(replace(WHOLE, sha256="d" * 64))
    assert other["serialNumber"] != first["serialNumber"]
    assert sbom.document(replace(WHOLE, moment=0))["metadata"]["timestamp"] == "1970-01-01T00:00:00Z"
    assert contents.moment({"SOURCE_DATE_EPOCH": "315532800"}) == 315532800
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH is 'soon'"):
        contents.moment({"SOURCE_DATE_EPOCH": "soon"})


def test_without_dpkg_a_bill_says_that_packages_were_not_read() -> None:
    bill = sbom.document(replace(WHOLE, system=None))

    said = {one["name"]: one["value"] for one in bill["metadata"]["properties"]}
    assert said["envbuilder:distribution-packages-read"] == "none"
    assert validate(json.dumps(bill)) == ""


@pytest.mark.real
def test_a_tree_has_a_bill_too(mpi4py_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(mpi4py_env.parent.parent))
    files = [tmp_path / name for name in ("one.json", "two.json")]

    for file in files:
        assert cli.main(["export", "sbom", mpi4py_env.name, "-o", str(file)]) == 0

    assert files[0].read_bytes() == files[1].read_bytes()
    text = files[0].read_text()
    assert validate(text) == ""
    bill = json.loads(text)
    assert bill["metadata"]["component"]["type"] == "application"
    assert components(bill)["source:mpi4py"]["pedigree"]["notes"].startswith("compiled from source")
    manifest = json.loads((mpi4py_env.parent.parent / "manifests" / f"{mpi4py_env.name}.json").read_text())
    mpi = manifest["mpi"]
    if mpi["provider"] == "system":
        assert components(bill)[f"host:{mpi['library']}"]["hashes"][0]["content"] == mpi["sha256"]
    else:
        assert "pypi:mpich" in components(bill)


def test_what_dpkg_has_installed() -> None:
    assert [one["name"] for one in dpkg.packages(STATUS)] == ["libc6", "libmpich12"]
    assert dpkg.release('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian"\n') == {
        "id": "debian", "version": "12", "name": "Debian",
    }  # fmt: skip


# Containerfiles


def written(base: base_image.BaseImage, value: str = "1", named: str = "") -> str:
    chosen = Activation(
        prefix=Path("/opt/envbuilder/env"),
        name="both-1.0",
        settings=(Setting(name="TF_ENABLE_ONEDNN_OPTS", value=value, why="it computes"),),
        caches=Path("/tmp/envbuilder"),
        prepend_path=(),
        site_packages=Path("/opt/envbuilder/env/lib/python3.11/site-packages"),
    )
    return containerfile.text(LOCK, base, containerfile.start(base, named), chosen)


def linted(text: str) -> list[str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--format", "json", "-"],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [f"{one['code']}: {one['message']}" for one in json.loads(done.stdout)]


def test_a_containerfile_has_the_base_and_installs_by_the_same_script() -> None:
    base = base_image.find("debian-12", {"HOME": "/nowhere"})

    text = written(base, 'a "b" $c \\d')

    assert linted(text) == []
    assert f"FROM {base.oci}\n" in text
    assert f"--no-install-recommends {' '.join(base.packages)};" in text
    assert "RUN set -eu; export" in text  # a package that cannot be had ends the build
    assert "sh /media/install.sh" in text
    assert ' TF_ENABLE_ONEDNN_OPTS="a \\"b\\" \\$c \\\\d"' in text
    assert ' PATH="/opt/envbuilder/env/bin:/usr/local/sbin:' in text
    assert not re.search(r"@[A-Z]+@", text)
    local = replace(base, packages=(), kind="local")
    assert "apt-get" not in written(local)
    assert linted(written(local)) == []
    assert linted(text.replace("FROM ", "FORM ")) != []
    with pytest.raises(InputError, match="cannot stand in a Containerfile"):
        written(base, "a\nRUN evil")


def test_a_containerfile_starts_from_what_has_a_name() -> None:
    base = base_image.find("debian-12", {"HOME": "/nowhere"})

    assert containerfile.start(base, "registry.example.org/os:12") == "registry.example.org/os:12"
    assert containerfile.start(base, f"debian@sha256:{'0' * 64}").endswith("0")
    for bad in ("a b", "x\nRUN evil", "--platform=x y"):
        with pytest.raises(InputError, match="is not the name of an image"):
            containerfile.start(base, bad)
    with pytest.raises(InputError, match="does not say what it is called in a registry"):
        containerfile.start(replace(base, oci=""), "")


def test_an_export_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")

    assert cli.main(["export", "containerfile", "mpi4py", "-o", str(tmp_path)]) == BAD_INPUT
    assert "is there already" in capsys.readouterr().err


# workflows


def checked(text: str, service: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The schema of the service, as its own editors use it."""
    file = folder / "workflow.yml"
    file.write_text(text)
    schema = {"github": ["vendor.github-workflows"], "gitlab": ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"]}
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", *schema[service], file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def scripts(service: str, text: str) -> Iterator[str]:
    document = yaml.safe_load(text)
    if service == "github":
        yield from (step["run"] for step in document["jobs"]["image"]["steps"] if "run" in step)
    else:
        yield "\n".join([*document["images"]["before_script"], *document["images"]["script"]])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="check-jsonschema needs Python 3.11")
@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_workflows_fit_the_schema_of_their_service(service: str, tmp_path: Path) -> None:
    text = workflows.text(service, ("mpi4py", "tensorflow-onednn@2.21.0"))

    assert checked(text, service, tmp_path).returncode == 0
    assert not re.search(r"@[A-Z]+@", text)
    wrong = text.replace("  timeout", "  timeuot") if service == "gitlab" else text.replace("steps:", "stpes:")
    assert checked(wrong, service, tmp_path).returncode == 1


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_the_scripts_of_workflows_are_sound(service: str) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for script in scripts(service, workflows.text(service, ("mpi4py",))):
        done = subprocess.run(
            [shellcheck, "--shell=bash", "-"], input=script, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_every_command_of_a_workflow_is_one_of_ours(service: str) -> None:
    """The parser takes each of them, so that no workflow names an option that went away."""
    from envbuilder.cli.parser import parse

    seen = set()
    for script in scripts(service, workflows.text(service, ("mpi4py",))):
        for line in script.replace("\\\n", " ").splitlines():
            words = [word.strip("'\"") for word in line.split()]
            if words[:1] == ["envbuilder"]:
                seen.add(parse(words[1:]).verb)
    assert seen == {"lint", "lock", "build", "sign", "verify", "export"}


def test_actions_of_others_are_pinned() -> None:
    used = re.findall(r"uses: (\S+)", workflows.text("github", ("mpi4py",)))

    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", one) for one in used)


def test_a_workflow_takes_names_only() -> None:
    for bad in ("a b", "$(evil)", "../x", "a@b;c", 'a"'):
        with pytest.raises(InputError, match="is not the name of a recipe"):
            workflows.text("github", (bad,))


@pytest.mark.parametrize("path", sorted((places.data_root() / "containers").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_described_base_gives_a_sound_containerfile(path: Path) -> None:
    base = base_image.parse(path.read_text(), str(path))
    if str(base.start).startswith("docker://"):
        base = replace(base, start=f"{base.start}@sha256:{'0' * 64}")
    named = "" if base.oci or str(base.start).startswith("docker://") else "registry.example.org/it:1"

    text = written(base, named=named)

    assert linted(text) == []
    assert re.search(r"^FROM [a-z0-9]\S+[:@]\S+$", text, re.MULTILINE)
    assert all(str(package) in text for package in base.packages)
