"""Activation in real shells: what it changes, that it is undone exactly, and that processes get the same."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envbuilder.activation import CACHES, Activation, Setting, environment, script
from envbuilder.effect import Around, Effect
from envbuilder.errors import InputError
from envbuilder.process import patched

NASTY = "a 'b' \"c\" $HOME `touch x` $(touch x); touch x\n\\ end"
SHELLS = ("bash", "zsh", "dash")
# what modules do: search paths, one of which the user has already, values of every kind, and one taken away
EFFECT = Effect(
    set={"PE_ENV": "GNU", "ROCM_PATH": "/opt/rocm", "MODULE_NASTY": NASTY},
    unset=("CRAY_OLD",),
    paths={
        "LD_LIBRARY_PATH": Around(
            before=("/opt/mpi/lib", "/opt/rocm/lib"), after=("/late/lib",), without=("/old/lib",)
        ),
        "PATH": Around(before=("/opt/cray/bin",), after=("/opt/tools/bin",)),
        "PYTHONPATH": Around(before=("/opt/central/site-packages",)),
        "GONE_PATH": Around(without=("/only/one",)),
    },
)
CORE = {
    "LD_LIBRARY_PATH": "/mine/lib:/opt/mpi/lib::/old/lib:/also/mine",
    "GONE_PATH": "/only/one",
    "CRAY_OLD": "x",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent/home",
    "EMPTY": "",
    "NASTY": NASTY,
    "PYTHONHOME": "/old/python",
    "HF_HOME": "/mine/hf",
    "OMP_NUM_THREADS": "",
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed; CI installs it")
    return str(request.param)


def an_activation(prefix: Path, *, name: str = "tensorflow-onednn") -> Activation:
    return Activation(
        prefix=prefix,
        name=name,
        settings=(
            Setting(name="OMP_NUM_THREADS", value="2", why="one rank per core"),
            Setting(name="INERT", value=NASTY, why="x\ntouch x\r\n`touch x`"),
            Setting(name="NOT_WANTED", value=None, why="it misleads"),
        ),
        caches=prefix / "caches",
        prepend_path=(prefix / "mpi" / "bin",),
        effect=EFFECT,
        site_packages=prefix / "lib" / "python3.11" / "site-packages",
    )


def written(activation: Activation) -> Path:
    path = activation.prefix / "bin" / "activate"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script(activation), encoding="utf-8")
    return path


def argv(shell: str, *extra: str) -> list[str]:
    quiet = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "dash": []}[shell]
    return [str(shutil.which(shell)), *quiet, *extra]


def run(shell: str, code: str, env: Mapping[str, str], cwd: Path, *, options: Iterable[str] = ()) -> str:
    done = subprocess.run(
        [*argv(shell, *options), "-c", code], env=dict(env), cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # bash -i without a terminal says so
    assert not [
        line for line in done.stderr.splitlines() if "terminal process" not in line and "job control" not in line
    ]
    return done.stdout


def snapshots(shell: str, steps: Iterable[str], env: Mapping[str, str], cwd: Path) -> list[dict[str, str]]:
    """The exported variables after each step."""
    code = "set -eu\n"
    for number, step in enumerate(steps):
        code += f"{step}\n/usr/bin/env -0 > {number}.env\n"
    run(shell, code, env, cwd)
    return [read_env(cwd / f"{number}.env") for number, _ in enumerate(steps)]


def read_env(path: Path) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in path.read_text("utf-8", "surrogateescape").split("\0") if entry)
    own = {"_", "SHLVL", "PWD", "OLDPWD"}
    return {name: value for name, _, value in pairs if name not in own}


def source(path: Path) -> str:
    return f". {quote(str(path))}"


@pytest.mark.parametrize("folder", ["plain", "with space", "quo'te\" $(touch x) `touch x`"])
def test_deactivate_restores_everything(shell: str, tmp_path: Path, folder: str) -> None:
    activation = an_activation(tmp_path / folder)
    path = written(activation)
    steps = [":", source(path), source(path), "deactivate"]
    before, once, twice, after = snapshots(shell, steps, CORE, tmp_path)
    assert before == after
    assert once == twice
    assert once["VIRTUAL_ENV"] == str(activation.prefix)
    assert (
        once["PATH"]
        == f"{activation.prefix}/bin:{activation.prefix}/mpi/bin:/opt/cray/bin:/opt/tools/bin:{CORE['PATH']}"
    )
    assert once["LD_LIBRARY_PATH"] == "/opt/mpi/lib:/opt/rocm/lib:/mine/lib:/also/mine:/late/lib"
    assert once["PYTHONPATH"] == f"{activation.site_packages}:/opt/central/site-packages"
    assert once["MODULE_NASTY"] == NASTY
    assert not {"GONE_PATH", "CRAY_OLD"} & set(once)
    assert once["INERT"] == NASTY
    assert once["HF_HOME"] == "/mine/hf"
    assert once["TORCH_HOME"] == f"{activation.prefix}/caches/torch/home"
    assert "PYTHONHOME" not in once
    assert not [found for found in tmp_path.rglob("x") if found.is_file()]


def test_a_process_gets_what_a_shell_gets(shell: str, tmp_path: Path) -> None:
    activation = an_activation(tmp_path / "e")
    before, shown = snapshots(shell, [":", source(written(activation))], CORE, tmp_path)
    assert patched(environment(activation, before), before) == shown
    assert environment(activation, shown) == {}


names = st.sampled_from(
    ["TORCH_HOME", "XDG_CACHE_HOME", "PYTHONPATH", "PYTHONHOME", "OMP_NUM_THREADS", "INERT", "NOT_WANTED", "VIRTUAL_ENV",
     "PYTHONNOUSERSITE", "ENVBUILDER_CACHE", "ENVBUILDER_ENVIRONMENT", "SOMETHING_ELSE"]
)  # fmt: skip
values = st.text(alphabet=st.sampled_from(list("ab:/ '\"$`\\\n;%é()=!*?[")), max_size=12)


@pytest.mark.parametrize("which", ["bash", "zsh"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.dictionaries(names, values, max_size=8), path=values)
def test_any_environment_survives(which: str, tmp_path: Path, base: dict[str, str], path: str) -> None:
    if shutil.which(which) is None:
        pytest.skip(f"{which} is not installed; CI installs it")
    first, second = an_activation(tmp_path / "a b"), an_activation(tmp_path / "second", name="other")
    steps = [":", source(written(first)), source(written(second)), source(written(first)), "deactivate"]
    env = {**base, "PATH": path}
    before, one, two, three, after = snapshots(which, steps, env, tmp_path)
    assert before == after  # a shell may add to `env` by itself when it starts
    assert patched(environment(first, before), before) == one == three
    assert patched(environment(second, before), before) == two
    assert patched(environment(second, one), one) == two
    assert patched(environment(first, two), two) == one


def test_another_environment_replaces_the_first(shell: str, tmp_path: Path) -> None:
    first, second = an_activation(tmp_path / "first"), an_activation(tmp_path / "second", name="other")
    steps = [":", source(written(first)), source(written(second)), "deactivate"]
    before, _, other, after = snapshots(shell, steps, CORE, tmp_path)
    assert before == after
    assert str(first.prefix) not in str(other)
    assert other["ENVBUILDER_ENVIRONMENT"] == "other"
    assert other["TORCH_HOME"].startswith(str(second.prefix))


def test_a_child_shell_can_leave_what_it_inherited(shell: str, tmp_path: Path) -> None:
    path = written(an_activation(tmp_path / "e"))
    inherited = snapshots(shell, [":", source(path)], CORE, tmp_path)
    again, left = snapshots(shell, [source(path), "deactivate"], inherited[1], tmp_path)
    assert again == inherited[1]
    assert left == inherited[0]


def test_settings_altered_by_hand_are_put_back(shell: str, tmp_path: Path) -> None:
    activation = an_activation(tmp_path / "e")
    path = written(activation)
    alter = "export OMP_NUM_THREADS=64 PATH=/first:$PATH TORCH_HOME=/moved"
    before, once, altered, again, after = snapshots(
        shell, [":", source(path), alter, source(path), "deactivate"], CORE, tmp_path
    )
    assert again == {**once, "PATH": again["PATH"], "TORCH_HOME": "/moved"}
    assert again["PATH"] == once["PATH"].replace("/opt/tools/bin:", "/opt/tools/bin:/first:")
    assert after == {**before, "PATH": "/first:" + before["PATH"]}
    assert patched(environment(activation, altered), altered) == again


def test_names_of_functions_and_variables_are_gone(shell: str, tmp_path: Path) -> None:
    path = written(an_activation(tmp_path / "e"))
    listing = {"bash": "declare -p; declare -F", "zsh": "typeset -p; functions", "dash": "set"}[shell]
    code = tmp_path / "code"
    code.write_text(f"{source(path)}\ndeactivate\n:\n{listing}\n")
    lines = run(shell, source(code), CORE, tmp_path).splitlines()
    assert len(lines) > 10
    assert not [line for line in lines if re.search("envbuilder|deactivate", line, re.IGNORECASE)]


def test_deactivating_twice_changes_nothing(shell: str, tmp_path: Path) -> None:
    path = written(an_activation(tmp_path / "e"))
    steps = [":", source(path) + "; deactivate", "deactivate 2>/dev/null || :"]
    before, once, twice = snapshots(shell, steps, CORE, tmp_path)
    assert before == once == twice


@pytest.mark.parametrize("which", ["bash", "zsh"])
def test_variables_that_were_not_exported_stay_so(which: str, tmp_path: Path) -> None:
    if shutil.which(which) is None:
        pytest.skip(f"{which} is not installed; CI installs it")
    path = written(an_activation(tmp_path / "e"))
    code = f"INERT='mine $x'; {source(path)}; deactivate; printf '%s' \"$INERT\"; /usr/bin/env -0 > after"
    assert run(which, code, CORE, tmp_path) == "mine $x"
    assert "INERT" not in read_env(tmp_path / "after")


@pytest.mark.parametrize("which", ["bash", "zsh"])
def test_the_deactivate_of_another_tool_comes_back(which: str, tmp_path: Path) -> None:
    if shutil.which(which) is None:
        pytest.skip(f"{which} is not installed; CI installs it")
    path = written(an_activation(tmp_path / "e"))
    code = f"deactivate() {{ echo theirs; }}; {source(path)}; {source(path)}; deactivate; deactivate"
    assert run(which, code, CORE, tmp_path) == "theirs\n"


@pytest.mark.parametrize("options", ["IFS=/; set -f", "set -o noglob; IFS="])
def test_the_shells_settings_do_not_matter(shell: str, tmp_path: Path, options: str) -> None:
    path = written(an_activation(tmp_path / "e"))
    plain = snapshots(shell, [source(path), "deactivate"], CORE, tmp_path)
    assert snapshots(shell, [f"{options}; {source(path)}", "deactivate"], CORE, tmp_path) == plain


def test_zsh_with_every_warning(tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed; CI installs it")
    path = written(an_activation(tmp_path / "e"))
    options = "setopt warn_create_global ksh_arrays glob_subst rc_quotes prompt_subst; typeset -U path"
    before, after = snapshots("zsh", [options, f"{source(path)}; deactivate"], CORE, tmp_path)
    assert before == after


@pytest.mark.parametrize("which", ["bash", "zsh"])
@pytest.mark.parametrize("prompt", ["$ ", "\\u@\\h %m 'q' \n> ", "(tensorflow-onednn) mine "])
def test_the_prompt_shows_the_name_and_comes_back(which: str, tmp_path: Path, prompt: str) -> None:
    if shutil.which(which) is None:
        pytest.skip(f"{which} is not installed; CI installs it")
    first, other = an_activation(tmp_path / "e"), an_activation(tmp_path / "f", name="$(touch x)%n`touch x`")
    show = 'printf "%s\\0" "$PS1"'
    code = f"PS1={quote(prompt)}; {source(written(first))}; {show}; {source(written(first))}; {show}; "
    code += f"{source(written(other))}; {show}; deactivate; {show}"
    out = run(which, code, CORE, tmp_path, options=["-i"]).split("\0")
    label = "__touch_x__n_touch_x_"
    assert out[:4] == [f"(tensorflow-onednn) {prompt}"] * 2 + [f"({label}) {prompt}", prompt]


def interpreters() -> list[Path]:
    found = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    new_enough = [path for path in found if int(path.parts[-3].split(".")[1]) >= 8]
    system = Path("/usr/bin/python3")
    return [*new_enough, *([system] if system.exists() else [])]


@pytest.mark.parametrize("python", interpreters(), ids=lambda path: path.parts[-3])
def test_python_runs_in_a_real_environment(shell: str, tmp_path: Path, python: Path) -> None:
    prefix = tmp_path / "real environment"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv is not None
    command = [
        uv,
        "venv",
        "--quiet",
        "--relocatable",
        "--no-project",
        "--offline",
        "--python",
        str(python),
        str(prefix),
    ]
    subprocess.run(command, check=True, capture_output=True)
    path = written(an_activation(prefix))
    code = f"{source(path)}; python show.py; python -m pip --version >/dev/null 2>&1 || echo no pip"
    (tmp_path / "show.py").write_text("import sys\nprint(sys.prefix)\nprint(sys.flags.no_user_site)\n")
    shown = run(shell, code, {**CORE, "PYTHONHOME": "/broken"}, tmp_path)
    assert shown.splitlines() == [str(prefix), "1", "no pip"]


def test_a_moved_script_still_names_the_prefix(tmp_path: Path) -> None:
    activation = an_activation(tmp_path / "e")
    elsewhere = tmp_path / "elsewhere"
    shutil.copy(written(activation), elsewhere)
    assert snapshots("bash", [source(elsewhere)], CORE, tmp_path)[0]["VIRTUAL_ENV"] == str(activation.prefix)


def test_caches_follow_envbuilder_cache(shell: str, tmp_path: Path) -> None:
    activation = an_activation(tmp_path / "e")
    env = {"PATH": "/bin", "ENVBUILDER_CACHE": "/scratch/it's $mine"}
    shown = snapshots(shell, [source(written(activation))], env, tmp_path)[0]
    assert {shown[name] for name in CACHES} == {f"/scratch/it's $mine/{below}" for below in CACHES.values()}


@pytest.mark.parametrize(
    "name",
    ["PATH", "IFS", "PS1", "path", "status", "VIRTUAL_ENV", "_ENVBUILDER_OLD_PATH", "A B", "1A", "A;x", "", "UID"],
)
def test_names_that_a_recipe_cannot_set(tmp_path: Path, name: str) -> None:
    activation = replace(an_activation(tmp_path), settings=(Setting(name=name, value="1", why="because"),))
    with pytest.raises(InputError):
        script(activation)
    with pytest.raises(InputError):
        environment(activation, {})


@pytest.mark.parametrize("prefix", ["/with:colon", "relative", "/with\0nul"])
def test_prefixes_that_cannot_work(prefix: str) -> None:
    with pytest.raises(InputError):
        script(an_activation(Path(prefix)))


def test_the_text_depends_on_the_arguments_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = script(an_activation(Path("/some/where")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/elsewhere")
    assert script(an_activation(Path("/some/where"))) == first
