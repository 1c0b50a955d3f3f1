# Environment Modules (the Tcl ones) with the testbed's small Tcl tree; replaces Lmod's `module` in the shell that sources it.
export MODULESHOME="@ROOT@/opt/tcl-modules"
export MODULEPATH="@ROOT@/opt/tcl-modules/modulefiles"
export MODULES_CMD="@MODULECMD@"
unset LMOD_CMD LOADEDMODULES _LMFILES_ BASH_ENV
unset -f ml 2>/dev/null
module() {
    local done_
    eval "$(/usr/bin/tclsh8.6 "$MODULES_CMD" bash "$@")"
    done_=$?
    return "$done_"
}
export -f module
