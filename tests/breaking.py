"""Take a real environment and break it, in a store of its own: the good one and the caches are never touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Copy:
    """A whole copy of an environment (no hard links) with a manifest and a store of its own."""

    home: Path
    prefix: Path
    identifier: str

    @property
    def site_packages(self) -> Path:
        (folder,) = self.prefix.glob("lib/python*/site-packages")
        return folder

    @property
    def manifest(self) -> Path:
        return self.home / "manifests" / f"{self.identifier}.json"

    def one(self, pattern: str) -> Path:
        """The only file of the tree that matches."""
        found = sorted(self.prefix.glob(pattern))
        assert len(found) == 1, (pattern, found)
        return found[0]

    def verify(self, *options: str, **variables: str) -> Verdict:
        """The outcomes of `envbuilder verify --json` under these variables."""
        env = {**os.environ, "ENVBUILDER_HOME": str(self.home), **variables}
        command = [sys.executable, "-m", "envbuilder", "verify", self.identifier, "--json", *options]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        document = json.loads(done.stdout)
        return Verdict(done.returncode, document["environments"][0]["outcomes"], done.stderr)


@dataclass(frozen=True)
class Verdict:
    """What verify said."""

    code: int
    outcomes: list[dict[str, Any]]
    stderr: str

    def failures(self) -> dict[str, str]:
        """The failed checks with their causes."""
        return {one["check"]: one["cause"] for one in self.outcomes if one["status"] == "fail"}

    def assert_fails(self, check: str, *words: str) -> None:
        """That this check failed, names the cause by these words, offers a remedy, and that the exit code is 1."""
        assert self.code == 1, self.described()
        failed = self.failures()
        assert check in failed, self.described()
        for word in words:
            assert word.lower() in failed[check].lower(), (word, failed[check])
        (outcome,) = (one for one in self.outcomes if one["check"] == check)
        assert outcome["remedy"]

    def assert_passes(self) -> None:
        """That every check passed, none was left out, and the exit code is 0."""
        assert self.code == 0, self.described()
        assert self.outcomes
        assert {one["status"] for one in self.outcomes} == {"pass"}

    def described(self) -> str:
        """For assertion messages."""
        lines = [f"{one['check']}: {one['status']}: {one['cause'] or one['witnessed']}" for one in self.outcomes]
        return "\n".join([f"exit code {self.code}", *lines, self.stderr])


def copied(prefix: Path, home: Path) -> Copy:
    """A copy of the environment at `prefix` in the store `home`."""
    identifier = prefix.name
    source = prefix.parent.parent / "manifests" / f"{identifier}.json"
    target = home / "envs" / identifier
    shutil.copytree(prefix, target, symlinks=True)
    for pointer in (home / "manifests" / source.name,):
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_text(source.read_text().replace(str(prefix), str(target)))
    # bin/activate holds the prefix; the copy's own is as much a part of it as the original's was
    activate = target / "bin" / "activate"
    activate.write_text(activate.read_text().replace(str(prefix), str(target)))
    _rehash(home / "manifests" / source.name, target, "bin/activate")
    return Copy(home=home, prefix=target, identifier=identifier)


def flip(path: Path, offset: int = -1) -> None:
    """Flip one bit of one byte of a file (the middle one by default)."""
    content = bytearray(path.read_bytes())
    at = len(content) // 2 if offset < 0 else offset
    content[at] ^= 1
    path.write_bytes(bytes(content))


def _rehash(manifest: Path, prefix: Path, *names: str) -> None:
    import hashlib

    document = json.loads(manifest.read_text())
    for name in names:
        document["written"][name] = hashlib.sha256((prefix / name).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(document))


def injected(folder: Path, code: str) -> str:
    """A PYTHONPATH whose sitecustomize runs `code` in every interpreter: a fault that no file of the tree shows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A small, valid, pure-Python wheel."""
    import zipfile

    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_mark(text)},{len(text.encode())}\n" for path, text in content.items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**content, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(member, text)
    return path


def _mark(text: str) -> str:
    import base64
    import hashlib

    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def uv(
    *arguments: str | Path, env: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run uv with pip's configuration of this machine, as the product does."""
    from envbuilder import host, pip_config
    from envbuilder.process import patched

    base = dict(os.environ if env is None else env)
    settings = patched(pip_config.uv_environment(pip_config.read(base)), base)
    done = subprocess.run([host.uv(), *arguments], env=settings, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def built(recipe: str, home: Path, *options: str, **variables: str) -> Path:
    """The tree of an environment: what `envbuilder build` prints. Two test processes at once are the product's business."""
    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "build", recipe, *options],
        env={**os.environ, "ENVBUILDER_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    if "out of reach from here" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"{recipe} cannot be had on this machine: neither its index nor pip's find-links has it")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())
