# What a login on the testbed sets up, as on ARCHER2: its Slurm, its modules, the default ones loaded. POSIX sh and bash.
export SLURM_CONF="@DIR@/etc/slurm.conf"
if [ -n "${BASH_VERSION:-}" ]; then . "@LMOD@/init/bash"; else . "@LMOD@/init/sh"; fi >/dev/null
if [ -z "${LOADEDMODULES:-}" ]; then
    export MODULEPATH="@ROOT@/opt/modulefiles"
    export LMOD_SYSTEM_DEFAULT_MODULES="@DEFAULTS@"
    module --quiet --initial_load restore
else
    # a login shell inside another: /etc/profile has set PATH anew, and the loaded modules put their part back
    module --quiet update
fi
