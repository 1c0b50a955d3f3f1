"""The shell code of an activation script, for bash, zsh and any POSIX shell that has `local`.

How it works: everything that activation changes is first saved in `_ENVBUILDER_OLD_<name>` and the name noted in
`_ENVBUILDER_CHANGED`. These are ordinary exported variables, so that a child shell can undo or renew an activation that
it inherited, and so that `envbuilder.activation.environment` can do the same for a process without a shell. The saved
copy is exported exactly when the variable was. `eval` only ever sees variable names that have been checked, never values.

The code depends on neither IFS nor word splitting nor a particular `set -o`, and names no variable that zsh reserves
(`path`, `status`, ...).
"""

FUNCTIONS = r"""
_envbuilder_exported() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    local flags
    if [ -n "${BASH_VERSION-}" ]; then
        flags=$(declare -p "$1" 2>/dev/null) || flags=
        flags=${flags#declare -}
        case ${flags%% *} in *x*) return 0 ;; esac
        return 1
    fi
    if [ -n "${ZSH_VERSION-}" ]; then
        eval 'flags=${(Pt)1}'
        case $flags in *export*) return 0 ;; esac
        return 1
    fi
    return 0
}

_envbuilder_save() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    case " ${_ENVBUILDER_CHANGED-} " in *" $1 "*) return 0 ;; esac
    export _ENVBUILDER_CHANGED="${_ENVBUILDER_CHANGED:+$_ENVBUILDER_CHANGED }$1"
    unset "_ENVBUILDER_OLD_$1"
    if eval "[ -n \"\${$1+set}\" ]"; then
        eval "_ENVBUILDER_OLD_$1=\$$1"
        if _envbuilder_exported "$1"; then export "_ENVBUILDER_OLD_$1"; fi
    fi
}

_envbuilder_set() {
    _envbuilder_save "$1"
    eval "export $1=\"\$2\""
}

_envbuilder_unset() {
    _envbuilder_save "$1"
    unset "$1"
}

_envbuilder_around() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    local old entry kept
    _envbuilder_save "$1"
    eval "old=\${_ENVBUILDER_OLD_$1-}"
    kept=
    while [ -n "$old" ]; do
        entry=${old%%:*}
        case $old in *:*) old=${old#*:} ;; *) old= ;; esac
        case ":$2:$3:$4:" in *":$entry:"*) continue ;; esac
        [ -z "$entry" ] || kept=$kept:$entry
    done
    kept=${2:+:$2}$kept${3:+:$3}
    if [ -n "$kept" ]; then eval "export $1=\"\${kept#:}\""; else unset "$1"; fi
}

_envbuilder_cache() {
    if eval "[ -z \"\${$1+set}\" ]"; then _envbuilder_set "$1" "$2"; fi
}

_envbuilder_restore() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    if eval "[ -z \"\${_ENVBUILDER_OLD_$1+set}\" ]"; then
        unset "$1"
    elif _envbuilder_exported "_ENVBUILDER_OLD_$1"; then
        eval "export $1=\"\$_ENVBUILDER_OLD_$1\""
    elif [ -n "${ZSH_VERSION-}" ]; then
        eval "typeset -g +x $1=\"\$_ENVBUILDER_OLD_$1\""
    else
        unset "$1"
        eval "$1=\$_ENVBUILDER_OLD_$1"
    fi
    unset "_ENVBUILDER_OLD_$1"
}

_envbuilder_path_without() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    local all before
    all=":${PATH-}:"
    case $all in
        *":$1:"*)
            before=${all%%":$1:"*}
            all=$before:${all#*":$1:"}
            all=${all#:}
            export PATH="${all%:}"
            ;;
    esac
}

_envbuilder_path() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    _envbuilder_save PATH
    case ":${PATH-}:" in ":$1:"*) ;; *)
        _envbuilder_path_without "$1"
        export PATH="$1${PATH:+:$PATH}"
        ;;
    esac
    export _ENVBUILDER_PATH="$1"
}

_envbuilder_prompt() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    case $- in *i*) ;; *) return 0 ;; esac
    if [ -z "${_envbuilder_prompted-}${VIRTUAL_ENV_DISABLE_PROMPT-}" ] && [ -n "${PS1+set}" ]; then
        PS1="($1) $PS1"
        _envbuilder_prompted=$1
    fi
}

_envbuilder_undo() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    local rest name
    if [ -n "${_envbuilder_prompted-}" ]; then
        PS1=${PS1#"($_envbuilder_prompted) "}
        unset _envbuilder_prompted
    fi
    rest=${_ENVBUILDER_CHANGED:+$_ENVBUILDER_CHANGED }
    if [ -n "${_ENVBUILDER_PATH-}" ] &&
        [ "${PATH-}" != "${_ENVBUILDER_PATH}${_ENVBUILDER_OLD_PATH:+:$_ENVBUILDER_OLD_PATH}" ]; then
        # someone else changed PATH meanwhile: keep that, take only our part out
        _envbuilder_path_without "$_ENVBUILDER_PATH"
        unset _ENVBUILDER_OLD_PATH
        case $rest in "PATH "*) rest=${rest#PATH } ;; esac
    fi
    while [ -n "$rest" ]; do
        name=${rest%% *}
        rest=${rest#* }
        case $name in '' | [0-9]* | *[!A-Za-z0-9_]*) ;; *) _envbuilder_restore "$name" ;; esac
    done
    unset _ENVBUILDER_CHANGED _ENVBUILDER_PATH _ENVBUILDER_ACTIVE
}

_envbuilder_foreign() {
    [ -z "${ZSH_VERSION-}" ] || emulate -L sh
    # the `deactivate` of another tool is kept, and comes back when ours goes
    if [ -z "${_envbuilder_before+set}" ]; then
        _envbuilder_before=
        if [ -n "${BASH_VERSION-}${ZSH_VERSION-}" ]; then
            _envbuilder_before=$(typeset -f deactivate 2>/dev/null) || _envbuilder_before=
        fi
    fi
}
"""

DEACTIVATE = r"""
deactivate() {
    _envbuilder_undo
    hash -r 2>/dev/null || :
    unset -f deactivate _envbuilder_undo _envbuilder_restore _envbuilder_exported _envbuilder_path_without
    if [ -n "${_envbuilder_before-}" ]; then eval "$_envbuilder_before"; fi
    unset _envbuilder_before
}
"""

END = r"""
unset -f _envbuilder_save _envbuilder_set _envbuilder_unset _envbuilder_around _envbuilder_cache
unset -f _envbuilder_path _envbuilder_prompt _envbuilder_foreign
hash -r 2>/dev/null || :
"""
