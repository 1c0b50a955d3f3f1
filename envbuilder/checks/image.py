"""Checks of images: whether the file is the one that was built, and whose MPI its ranks really use."""

from __future__ import annotations

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.mpi import ranks_with
from envbuilder.evidence import Evidence, Expectation


def is_image(expectation: Expectation) -> bool:
    """Whether the environment is inside an image."""
    return expectation.image is not None


def _file(expectation: Expectation, evidence: Evidence) -> Finding:
    image = expectation.image or {}
    seen = evidence.static.get("image")
    if not seen:
        return NotRun("the image was not read")
    if seen.get("error"):
        return Failed(f"{image['file']} cannot be read: {seen['error']}", "build the environment anew")
    if seen["sha256"] != image["sha256"]:
        of, wanted = seen.get("lock", "").removeprefix("sha256:"), image.get("lock", "")
        if of and wanted and of != wanted:
            return Failed(
                f"{image['file']} is stale: it was built from the lock {of[:12]}, and this environment is of the lock "
                f"{wanted[:12]}",
                "build the image of this lock: envbuilder build RECIPE --builder apptainer --rebuild",
                f"sha256 {seen['sha256'][:12]} ({seen['size']} bytes); built was {image['sha256'][:12]}",
            )
        return Failed(
            f"{image['file']} is not the image that was built: its content changed",
            "build the environment anew with --rebuild",
            f"sha256 {seen['sha256'][:12]} ({seen['size']} bytes); built was {image['sha256'][:12]}",
        )
    return Passed(f"sha256 {seen['sha256'][:12]}, {seen['size'] / 1e6:.0f} MB, on {image['base']}")


def _mounts(expectation: Expectation, evidence: Evidence) -> Finding:
    hiding = evidence.static.get("mounts")
    if hiding is None:
        return NotRun("nobody looked at what is mounted in the image")
    if hiding:
        first = hiding[0]
        return Failed(
            f"{first['what']} is mounted at {first['at']} in the image, over its environment at {expectation.prefix}",
            "take that bind or home out: --home, --bind, $APPTAINER_HOME, $APPTAINER_BIND, $APPTAINER_BINDPATH, the same with "
            "SINGULARITY, or `container` of the site file",
            "; ".join(f"{one['at']}: {one['what']}" for one in hiding),
        )
    return Passed(f"nothing is mounted at {expectation.prefix}, above it or below it")


def _whose(expectation: Expectation, evidence: Evidence) -> Finding:
    image = expectation.image or {}
    ranks = ranks_with(evidence, "mpi")
    if isinstance(ranks, NotRun):
        return ranks
    folder = f"{image['library_path']}/" if image["library_path"] else ""
    for rank in ranks:
        used = str(rank.facts["mpi"].get("implementation", ""))
        if folder and not used.startswith(folder):
            return Failed(
                f"rank {rank.rank} uses the image's own {used}, and not the host's MPI, which is bound below {folder}",
                "look for a RUNPATH or a variable in the image that leads to its own; build with --mpi image to want that",
                f"{rank.facts['mpi'].get('library_version')}",
            )
    facts = ranks[0].facts["mpi"]
    whose = "the host's" if folder else "the image's own"
    return Passed(f"{whose} on {len(ranks)} ranks: {facts.get('implementation')} ({facts.get('library_version')})")


FILE_CHECKS: tuple[Check, ...] = (
    Check(
        name="image-file",
        rung=0,
        title="the image is the one that was built",
        source="image",
        judge=_file,
        where=is_image,
        only="in an image",
        witnesses="The sha256 of the whole file, beside that of the manifest.",
        mistakes="A name, a label or a digest inside the image says nothing about the bytes around it.",
        fails="Another sha256, or a file that is gone. Nothing is then run in it. A file whose labels name another lock is "
        "called stale.",
    ),
    Check(
        name="image-mounts",
        rung=0,
        title="nothing is mounted over the environment in the image",
        source="static",
        judge=_mounts,
        where=is_image,
        only="in an image",
        witnesses="The table of mounts of a process in the image, entered as every command is.",
        mistakes="A home or a folder that is mounted over the tree leaves an image that is whole, and packages that are gone "
        "or others.",
        fails="Something of the host is mounted at the environment's folder, above it or below it.",
    ),
)

RANKS_CHECKS: tuple[Check, ...] = (
    Check(
        name="image-mpi",
        rung=4,
        title="the ranks use the MPI that was chosen: the image's or the host's",
        source="ranks",
        judge=_whose,
        features=frozenset({"mpi4py"}),
        where=is_image,
        only="in an image",
        witnesses="In each live rank: the path of the library whose MPI_Init_thread is called, and whether it is below the "
        "folder into which the host's MPI is bound.",
        mistakes="A library that is bound under a name nobody asks for is passed over in silence; and where host and image "
        "have the same MPI, a checksum cannot tell which of the two files it was.",
        fails="The host's MPI was chosen, and a rank uses the image's own.",
    ),
)
