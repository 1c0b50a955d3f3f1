"""A store, a recipe and a small C++ package, for tests that really compile; nothing here is a test."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import envbuilder
from envbuilder.checkout import Cache
from envbuilder.download import Network
from envbuilder.pip_config import PipConfig
from envbuilder.places import Origin
from envbuilder.store import Store

WORKSHOP = Path(envbuilder.__file__).parent / "workshop"
SITE = Path(__file__).parent / "sites" / "local.yaml"


def _tool(name: str) -> ModuleType:
    """A tool of the workshop as a module; in builds it is run, never imported."""
    spec = importlib.util.spec_from_file_location(f"workshop_{name}", WORKSHOP / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILE, UNPACK, REPLACE = _tool("compile"), _tool("unpack"), _tool("replace")


def recipe_document(**source: Any) -> dict[str, Any]:
    """A recipe with one source."""
    return {
        "schema": 1,
        "name": "tiny",
        "summary": "s",
        "variants": [{"version": "1"}],
        "sources": {"answer": {"build_requires": ["pip>=23", "setuptools>=68"], "why": "a reason", **source}},
    }


TOLD = {"name": "answer", "version": "1.0"}


def write_recipe(folder: Path, document: dict[str, Any], **files: str) -> Origin:
    place = folder / str(document["name"])
    (place / "patches").mkdir(parents=True, exist_ok=True)
    (place / "recipe.yaml").write_text(json.dumps(document))
    for name, text in files.items():
        (place / "patches" / f"{name}.patch").write_bytes(text.encode())
    return Origin(name=str(document["name"]), path=place / "recipe.yaml")


Members = list[tuple[str, bytes | None, dict[str, Any]]]


def make_tar(path: Path, members: Members, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as sink:  # type: ignore[call-overload]
        for name, content, attributes in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content or b"")
            for key, value in attributes.items():
                setattr(entry, key, value)
            sink.addfile(entry, io.BytesIO(content) if content is not None else None)
    return path


EXTENSION = """\
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <mpi.h>
#include <string>
#include "deep.h"
static PyObject *answer(PyObject *, PyObject *) {
  char text[MPI_MAX_LIBRARY_VERSION_STRING]; int length = 0;
  MPI_Get_library_version(text, &length);
  return Py_BuildValue("(is)", ANSWER, std::string(text, length).c_str());
}
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_answer", "", -1, methods};
PyMODINIT_FUNC PyInit__answer() { return PyModule_Create(&module); }
"""

SETUP = """\
import os, sys, sysconfig
from setuptools import Extension, setup
print("ANSWER-LOG: the user's canary is", os.environ.get("CANARY"))
with open("answer/seen.txt", "w") as sink:
    for name, value in sorted(os.environ.items()):
        if name != "PIP_BUILD_TRACKER":  # a folder of pip's with a random name
            print(name, value, sep="=", file=sink)
    print("PATHS", sys.path, file=sink)
setup(packages=["answer"], package_data={"answer": ["seen.txt"]}, ext_modules=[
    Extension("answer._answer", ["answer.cpp"], include_dirs=["third/deep"], libraries=["stdc++"])])
"""

FILES = {
    "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    '[project]\nname = "answer"\nversion = "1.0"\n',
    "setup.py": SETUP,
    "answer/__init__.py": "from answer._answer import answer\n",
    "answer.cpp": EXTENSION,
    "PKG-INFO": "Metadata-Version: 2.1\nName: answer\nVersion: 1.0\n",
}
DEEP = {"deep.h": "// the answer\n#define ANSWER 41\n// and no more\n"}

DIFF = """\
--- a/third/deep/deep.h
+++ b/third/deep/deep.h
@@ -1,3 +1,3 @@
 // the answer
-#define ANSWER 41
+#define ANSWER 42
 // and no more
"""


class Bench:
    """A store, a recipe, and places from which the source of a small package comes; `files` of it may be others."""

    def __init__(self, root: Path, *, site: Path = SITE, files: dict[str, str] | None = None) -> None:
        self.root = root
        self.site = site
        self.folder = root  # where commands are started
        self.recipes = root / "recipes"
        self.links = root / "links"
        self.links.mkdir(parents=True)
        self.files = {**FILES, **{f"third/deep/{name}": text for name, text in DEEP.items()}, **(files or {})}
        members: Members = [(f"answer-1.0/{name}", text.encode(), {}) for name, text in self.files.items()]
        self.archive = make_tar(self.links / "answer-1.0.tar.gz", members)
        self.sha256 = hashlib.sha256(self.archive.read_bytes()).hexdigest()

    def wants(
        self,
        *,
        mpi: bool = True,
        packages: tuple[str, ...] = ("answer",),
        imports: tuple[str, ...] = ("answer",),
        **source: Any,
    ) -> None:
        """Let the recipe say this of its one source."""
        document = recipe_document(
            **{
                "env": {"CC": "{{ mpi.cc }}", "CXX": "{{ mpi.cc }}"} if mpi else {},
                "without_compiler": "fail",
                **source,
            }
        )
        document |= {"packages": list(packages), "imports": list(imports), "needs": ["mpi"] if mpi else []}
        write_recipe(self.recipes, document, one=DIFF, wrong=DIFF.replace("the answer", "another line"))

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "envbuilder", *words], env=self.env(**variables), cwd=self.folder,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr.replace('Traceback (most recent call last):\n  File "/', ""), done.stderr
        return done

    def env(self, **variables: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENVBUILDER_")}
        return {
            **kept,
            "ENVBUILDER_HOME": str(self.root / "store"),
            "ENVBUILDER_RECIPE_PATH": str(self.recipes),
            "ENVBUILDER_SITE": str(self.site),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **variables,
        }

    def build(self, *words: str, **variables: str) -> Path:
        done = self.run("build", "tiny", *words, **variables)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def fails(self, *words: str, code: int = 3) -> str:
        done = self.run("build", "tiny", *words)
        assert done.returncode == code, done.stderr
        return done.stderr

    def log(self) -> str:
        """What the programs of the last build said."""
        logs = sorted((self.root / "store" / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return logs[-1].read_text()


def answers(prefix: Path) -> tuple[int, str]:
    code = "import answer, json; print(json.dumps(answer.answer()))"
    done = subprocess.run([prefix / "bin/python", "-I", "-c", code], capture_output=True, text=True, check=True)
    number, mpi = json.loads(done.stdout)
    return number, mpi


REPLACED = {"replace": "ANSWER 41", "by": "ANSWER 43", "in": "third/deep/deep.h", "why": "it is forty-three"}


def git(folder: Path, *words: str) -> str:
    env = {
        **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip
    command = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def new_repository(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, files)
    return folder


def commit(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a change")
    return git(folder, "rev-parse", "HEAD")


def answer_repository(folder: Path) -> Path:
    """A repository at v1.0 with a submodule, named by a relative address, that its build needs."""
    new_repository(folder / "deep", DEEP)
    whole = new_repository(folder / "answer", FILES)
    git(whole, "submodule", "--quiet", "add", "../deep", "third/deep")
    # what must neither run nor change what is locked
    hostile = "*.cpp filter=evil\n*.txt export-ignore\nid.txt export-subst\n"
    commit(whole, {".gitattributes": hostile, "kept.txt": "kept\n", "id.txt": "$Format:%D$\n"})
    git(whole, "tag", "-a", "-m", "one", "v1.0")
    return whole


def git_cache(root: Path, mirrors: dict[str, str] | None = None) -> Cache:
    network = Network(pip=PipConfig(), env={})
    return Cache(store=Store(root=root), network=network, mirrors=mirrors or {}, waiting=lambda _: None)
