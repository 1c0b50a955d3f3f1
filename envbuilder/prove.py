"""Verify an environment of the store, and leave a proof if and only if every check passed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from envbuilder import gate, image, image_signature, launcher, packed, proof, store
from envbuilder.builders import apptainer
from envbuilder.effect import Around
from envbuilder.environment import Environment
from envbuilder.errors import VerifyError
from envbuilder.evidence import Expectation, MpiExpectation, Verdict
from envbuilder.runtime import Entering
from envbuilder.store import Store
from envbuilder.verify import Inside, Request, verify


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is asked of a verify: ranks over nodes, seconds for each probe, whether to climb on when a rung failed.

    `partition` is where it takes place (empty: the one that the environment is for), `srun` the launcher of an allocation,
    `key` what the proof is signed with.
    """

    ranks: int = 2
    nodes: int = 1
    timeout: float = 300.0
    keep_going: bool = False
    partition: str = ""
    srun: tuple[str, ...] = ()
    key: Path | None = None


def expect(
    environment: Environment, ranks: int, nodes: int = 1, cpus_per_rank: int = 0, partition: str = ""
) -> Expectation:
    """What must hold in an environment, drawn from its manifest, on so many ranks of a partition (by default its own)."""
    mpi = environment.mpi
    searched = environment.effect().paths.get("LD_LIBRARY_PATH", Around())
    return Expectation(
        environment=environment.identifier,
        digest=environment.digest,
        prefix=environment.tree,
        python=environment.python["version"],
        features=environment.features,
        imports=environment.imports,
        packages=environment.packages,
        records=environment.records,
        written=environment.written,
        mpi=MpiExpectation(**{key: value for key, value in mpi.items() if key != "mpiexec"}) if mpi else None,  # type: ignore[arg-type]
        ranks=ranks,
        nodes=nodes,
        cpus_per_rank=cpus_per_rank,
        gpu=environment.gpu,
        base=environment.base,
        module_folders=(*searched.before, *searched.after),
        preloads=environment.preloads,
        data=environment.data,
        image=environment.image,
        pack=environment.pack,
        conda=environment.conda,
        spack=environment.spack,
        image_key=str(gate.image_key(environment, os.environ) or ""),
        gpu_vendor=environment.gpus.get(partition or environment.partition, ""),
    )


def prove(place: Store, environment: Environment, effort: Effort, progress: Callable[[str], None]) -> Verdict:
    """The verdict on an environment, by its probes on this machine.

    A verify that passes leaves a proof; one that fails removes the proof that was made under the same variables. Raises
    `VerifyError` when the probes cannot be started at all.
    """
    prefix = Path(environment.prefix)
    if not prefix.is_dir():
        raise VerifyError(
            f"{environment.identifier}: its tree is gone ({prefix})",
            hint=f"envbuilder build {environment.recipe}@{environment.version}",
        )
    if environment.mpi is not None and not environment.mpi["mpiexec"] and not effort.srun:
        raise VerifyError(
            f"{environment.identifier}: there is no mpiexec beside its MPI's compiler wrapper, so no ranks can be started",
            hint="verify in a job of the site's scheduler, or install the MPI's programs and build again",
        )
    before = gate.circumstances(environment, os.environ)
    if effort.partition:
        before = replace(before, partition=effort.partition)
    expected = expect(environment, effort.ranks, effort.nodes, launcher.cpus_per_rank(effort.srun), effort.partition)
    control = _control_directory(place, environment)
    verdict = verify(
        Request(
            expectation=expected,
            env=gate.patch(environment, os.environ),
            python=Path(expected.prefix, "bin", "python"),
            image=_inside(environment, control, expected),
            mpiexec=Path(environment.mpi["mpiexec"]) if environment.mpi and environment.mpi["mpiexec"] else None,
            srun=effort.srun,
            control=control,
            timeout=effort.timeout,
            keep_going=effort.keep_going,
        ),
        progress=progress,
    )
    if all(outcome.status == "pass" for outcome in verdict.outcomes) and verdict.outcomes:
        # what an image needs is in it, but for what is bound, which the circumstances have
        outside = {} if environment.image else verdict.evidence.static["libraries"]["outside"]
        preloaded = [one["path"] for one in verdict.evidence.static["libraries"].get("preloads", ()) if one["path"]]
        before = replace(before, libraries=proof.marks([*before.libraries, *proof.ways(outside), *preloaded]))
        document = proof.statement(
            environment,
            before,
            verdict.outcomes,
            outside,
            made=store.now(),
            ranks=effort.ranks,
            image_key=image_signature.mark(Path(expected.image_key) if expected.image_key else None),
        )
        proof.save(place, environment, before.partition, document, effort.key)
    elif any(outcome.status == "fail" for outcome in verdict.outcomes):
        proof.withdraw(place, environment, before)
    return verdict


def _inside(environment: Environment, control: Path, expected: Expectation) -> Inside | None:
    """How the probes get into the environment's image, with the control directory."""
    if environment.pack is not None:
        return _inside_pack(environment, expected)
    about = environment.image
    if about is None:
        return None
    binds = {str(control): str(control)}

    def look() -> dict[str, Any]:
        how = Entering(binds=binds, cwd=str(control), gpu=gate.gpus_here(environment, os.environ))
        how = apptainer.entering(environment, how)
        return image.ask(image.whom(about), "static", {"expectation": asdict(expected)}, how)

    return Inside(
        words=gate.words(environment, binds=binds, cwd=str(control)),
        words_of_ranks=gate.words(environment, binds=binds, cwd=str(control), together=True),
        mpiexec_inside=bool(about["mpiexec_inside"]),
        static=look,
    )


def _inside_pack(environment: Environment, expected: Expectation) -> Inside:
    """How the probes see the packed tree; an mpiexec of its own can be started only where it is seen."""
    own = str((environment.mpi or {}).get("mpiexec", "")).startswith(f"{environment.tree}/")
    alone = gate.words(environment)

    def look() -> dict[str, Any]:
        asked = {"expectation": asdict(expected)}
        return packed.ask(alone, "static", asked, gate.patch(environment, os.environ))

    return Inside(
        words=alone,
        words_of_ranks=gate.words(environment, together=True),
        mpiexec_inside=own,
        static=look,
    )


def _control_directory(place: Store, environment: Environment) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    return place.path("runs", environment.identifier, f"{stamp}-{os.getpid()}")
