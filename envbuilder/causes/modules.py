"""Module commands, and shells that were not set up."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_LMOD = "the text of Lmod 8.6"
_TCL = "the text of Environment Modules 5.2"

CAUSES = (
    Cause(
        name="module-command-missing",
        what="the shell has no `module` command, so no module was loaded",
        signs=(Sign("module: command not found"), Sign("module: not found", r"\d+: module: not found")),
        remedy="begin the script with `#!/bin/bash --login`, or source the module system's init file first",
        sources=("the text of bash 5.2",),
        explains=("library-missing", "mpi-library-missing", "module-missing", "slurm-program-missing"),
    ),
    Cause(
        name="module-unknown",
        what="there is no such module here",
        says="there is no module {module} here",
        signs=(
            Sign("module(s) are unknown", r"module\(s\) are unknown:[\s│]{0,20}\"(?P<module>[^\"\n]{1,120})\""),
            Sign("Unable to locate a modulefile", r"Unable to locate a modulefile for '(?P<module>[^'\n]{1,120})'"),
        ),
        remedy=(
            "`module avail` and `module spider NAME` show what there is; `envbuilder drift` names modules that "
            "went away"
        ),
        sources=(_LMOD, _TCL),
        explains=("library-missing", "mpi-library-missing"),
    ),
    Cause(
        name="module-needs-another",
        what="the module needs another one to be loaded first",
        says="the module {module} needs another one to be loaded first",
        signs=(
            Sign(
                "cannot be loaded as requested", r"cannot be loaded as requested:\s{0,8}\"(?P<module>[^\"\n]{1,120})\""
            ),
            Sign("Cannot load module", r"Cannot load module \"(?P<module>[^\"\n]{1,120})\" without"),
        ),
        remedy="`module spider NAME/VERSION` shows what to load first, commonly a compiler and an MPI",
        sources=(_LMOD,),
    ),
    Cause(
        name="module-conflict",
        what="the module conflicts with one that is loaded",
        signs=(
            Sign(
                "Cannot load module",
                r"Cannot load module \"[^\"\n]{1,120}\" because\s{1,8}these module\(s\) are loaded",
            ),
            Sign("cannot be loaded due to a conflict"),
        ),
        remedy=(
            "unload or swap the other one first, or start from the site's defaults (`module restore`, `module purge`)"
        ),
        sources=(_LMOD, _TCL),
    ),
    Cause(
        name="conda-not-set-up",
        what="`conda activate` was called in a shell that conda did not set up, as in a batch job",
        signs=(
            Sign("Your shell has not been properly configured to use 'conda activate'"),
            Sign("Run 'conda init' before 'conda activate'"),
        ),
        remedy='put `eval "$(conda shell.bash hook)"` before it in the script; do not rely on conda init in ~/.bashrc',
        sources=("conda/conda#8536", "conda/conda#13002"),
        explains=("module-missing",),
    ),
    Cause(
        name="interpreter-gone",
        what="a script names an interpreter that is not there, as after an environment was moved",
        signs=(
            Sign(
                "bad interpreter",
                r"bad interpreter: \S{1,300}: no such file or directory|bad interpreter: No such file",
            ),
            Sign("cannot execute: required file not found"),
        ),
        remedy="build the environment anew at its new place; an environment of envbuilder is built where it stays",
        sources=("the texts of bash 5.2 and zsh 5.9",),
    ),
)
