"""The commands on images that come and go, and their options: import, sign, export."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from envbuilder.cli import spack_options


class Means(NamedTuple):
    """What commands are added with: a command, the option for a site, the one for JSON."""

    verb: Callable[..., argparse.ArgumentParser]
    site: Callable[[argparse.ArgumentParser], None]
    json: Callable[[argparse.ArgumentParser], None]


def add(verbs: Any, means: Means) -> None:
    """Add them to the commands."""
    _signing(verbs, means)
    _exporting(verbs, means)
    means.json(spack_options.add_parity(verbs, means.verb, means.site))


def _signing(verbs: Any, means: Means) -> None:
    take = means.verb(verbs, "import", "take", "take an image that was built elsewhere into the store", module="images")
    take.add_argument("file", metavar="FILE", help="the file of an image that `envbuilder build` made")
    take.add_argument("--partition", default="", help="a partition of the site (default: the site's own choice)")
    take.add_argument("--mpi", default="", choices=("image", "host"), help="whose MPI its ranks use (default: its own)")
    means.site(take)
    means.json(take)
    sign = means.verb(verbs, "sign", "sign", "sign the image of an environment", module="images")
    sign.add_argument("environment", metavar="ENV", help="an environment in an image, such as NAME.sif")
    sign.add_argument("--key", required=True, metavar="FILE", help="the private key (PEM, without a passphrase)")
    sign.add_argument("--sif", default="", metavar="FILE", help="also write the signed image to FILE")
    means.site(sign)
    means.json(sign)


def _exporting(verbs: Any, means: Means) -> None:
    export = verbs.add_parser("export", help="write what other tools read", description="What other tools read.")
    parts = export.add_subparsers(
        dest="part",
        required=True,
        metavar="sbom|containerfile|workflow|spack|environment.yml",
        parser_class=type(export),
    )
    bill = means.verb(
        parts, "sbom", "sbom", "write the bill of materials (CycloneDX) of an environment", module="exporting"
    )
    bill.add_argument(
        "subject", metavar="ENV|IMAGE", help="an environment, or the path of an image's file (./NAME.sif)"
    )
    bill.add_argument("-o", "--output", default="", metavar="FILE", help="write FILE (default: the standard output)")
    oci = means.verb(
        parts, "containerfile", "containerfile", "write a folder for podman, Docker or buildah", module="exporting"
    )
    oci.add_argument("recipe", metavar="RECIPE", help="a recipe's name, name@version, or the path of a recipe.yaml")
    oci.add_argument("--partition", default="", help="a partition of the site (default: the site's own choice)")
    oci.add_argument("--base", default="", help="what the image starts from, as for build (default: debian-12)")
    oci.add_argument(
        "--from",
        dest="start",
        default="",
        metavar="IMAGE",
        help="what holds the same in a registry (default: the base's own)",
    )
    oci.add_argument("--lock", default="", metavar="DIR", help="take the lock in DIR instead of the store's")
    oci.add_argument("-o", "--output", default="", metavar="DIR", help="write the folder DIR (default: RECIPE.oci)")
    flow = means.verb(
        parts, "workflow", "workflow", "write a workflow that builds, proves and publishes images", module="exporting"
    )
    flow.add_argument("service", choices=("github", "gitlab"))
    flow.add_argument("recipes", metavar="RECIPE", nargs="+", help="what it builds images of")
    flow.add_argument("-o", "--output", default="", metavar="FILE", help="write FILE (default: the standard output)")
    spack = spack_options.add_export(parts, means.verb)
    conda = means.verb(
        parts,
        "environment.yml",
        "export",
        "write the lock of an environment for conda's programs",
        module="conda_files",
    )
    conda.add_argument("subject", metavar="ENV|DIR", help="an environment, or the folder of a lock")
    conda.add_argument("-o", "--output", default="", metavar="FILE", help="write FILE (default: the standard output)")
    for verb in (bill, oci, spack, conda):
        means.site(verb)
