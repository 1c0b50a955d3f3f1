"""Whose image it is: signed by nobody, by somebody else, and by the right one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from breaking import Copy

from envbuilder import image_signature
from envbuilder.process import Command, checked
from envbuilder.runtime import Runtime
from zoo.base import Case, Fault, Healthy, Look, Names, Scene


def image_copied(scene: Scene, private: Path | None) -> Copy:
    """The environment in a store of its own, its image signed with a key if there is one."""
    identifier, home = scene.prefix.name, scene.folder / "store"
    manifest = json.loads((scene.prefix.parent.parent / "manifests" / f"{identifier}.json").read_text())
    copy = Copy(home=home, prefix=home / "envs" / identifier, identifier=identifier)
    copy.prefix.mkdir(parents=True)
    told = manifest["image"]
    told["file"] = shutil.copyfile(told["file"], str(copy.prefix / "image.sif"))
    if private is not None:
        signed, told["sha256"] = image_signature.signed(Runtime(**told["runtime"]), Path(told["file"]), private)
        told["file"] = str(signed)
    copy.manifest.parent.mkdir(parents=True)
    copy.manifest.write_text(json.dumps({**manifest, "prefix": str(copy.prefix), "caches": str(home / "caches")}))
    return copy


def key(scene: Scene, name: str) -> Path:
    """A private key; the public one lies beside it, as NAME.pub."""
    path = scene.folder / f"{name}.pem"
    checked(Command(argv=("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path))))
    checked(Command(argv=("openssl", "pkey", "-in", str(path), "-pubout", "-out", str(path.with_suffix(".pub")))))
    return path


def _wanted(private: Path) -> dict[str, str]:
    return {image_signature.KEY_VARIABLE: str(private.with_suffix(".pub"))}


def _wrong_key(scene: Scene) -> Case:
    ours, theirs = key(scene, "ours"), key(scene, "theirs")
    return Case(copy=image_copied(scene, theirs), variables=_wanted(ours), told={"key": str(ours.with_suffix(".pub"))})


def _unsigned(scene: Scene) -> Case:
    ours = key(scene, "ours")
    return Case(copy=image_copied(scene, None), variables=_wanted(ours), told={"key": str(ours.with_suffix(".pub"))})


def _signed(scene: Scene) -> Case:
    ours = key(scene, "ours")
    return Case(copy=image_copied(scene, ours), variables=_wanted(ours))


# nothing of such an image may have been run
_NOT_RUN = ("files-intact", "import", "ranks-started", "image-mpi")

ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="wrong-key",
        broken="The image is signed, and not with the key that the user names.",
        start="mpi4py_image",
        make=_wrong_key,
        names=(Names(check="image-signature", cause=("is signed with another key than {key}",), remedy=("which key is theirs",)),),
        alone=True,
        passing=("image-file",),
        not_run=_NOT_RUN,
    ),
    Fault(
        name="unsigned-image",
        broken="The user names a key, and nobody signed the image.",
        start="mpi4py_image",
        make=_unsigned,
        names=(Names(check="image-signature", cause=("is not signed", "{key}"), remedy=("envbuilder sign",)),),
        alone=True,
        passing=("image-file",),
        not_run=_NOT_RUN,
    ),
)  # fmt: skip
HEALTHY: tuple[Healthy, ...] = (
    Healthy(
        name="signed-image",
        odd="The image is signed with the key that the user names.",
        start="mpi4py_image",
        make=_signed,
        look=Look(options=()),
        slow=True,
    ),
)
