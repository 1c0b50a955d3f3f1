"""Options, and real environments that are built once and kept between runs.

`--no-real` leaves out what needs built environments; `--slow` adds what takes too long for every run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import conda_channel as channel
import pytest
from breaking import built
from hypothesis import HealthCheck, settings
from testbed import apptainer, machine
from zoo.plugin import pytest_terminal_summary  # noqa: F401 - a hook, found by its name

if shutil.which("mpicc"):
    # the tests of the probes know where the wheel's MPI lies; a system's own MPI has a test of its own
    os.environ["ENVBUILDER_SITE_PATH"] = str(Path(__file__).parent / "sites")

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None, max_examples=50)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--no-real", action="store_true", help="leave out the tests that build real environments")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))
        if "real" in item.keywords and config.getoption("--no-real"):
            item.add_marker(pytest.mark.skip(reason="builds real environments; left out by --no-real"))


@pytest.fixture(scope="session")
def test_home() -> Path:
    """A store that is kept between runs, so that compiled wheels and downloads are made once on a machine."""
    chosen = os.environ.get("ENVBUILDER_TEST_HOME") or str(Path.home() / ".cache" / "envbuilder-tests")
    return Path(chosen)


@pytest.fixture(scope="session")
def testbed() -> machine.Testbed:
    """A machine that behaves like ARCHER2; it stays up for the next run."""
    lacking = machine.missing()
    why = f"lacking packages: {' '.join(lacking)}" if lacking else "needs root" if os.getuid() else ""
    if why and not os.environ.get("CI"):
        pytest.skip(f"the testbed cannot be brought up here: {why}")
    return machine.up()


@pytest.fixture(scope="session")
def apptainer_path(test_home: Path) -> str:
    """A PATH with a real Apptainer on it."""
    lacking = apptainer.missing()
    if lacking and not os.environ.get("CI"):
        pytest.skip(f"images cannot be built here: lacking packages: {' '.join(lacking)}")
    return f"{apptainer.have(test_home / 'apptainer')}:{os.environ['PATH']}"


@pytest.fixture(scope="session")
def mpi4py_env(test_home: Path) -> Path:
    return built("mpi4py", test_home)


@pytest.fixture(scope="session")
def mpi4py_image(test_home: Path, apptainer_path: str) -> Path:
    """The folder of an environment in an image, of the small one."""
    return built("mpi4py", test_home, "--builder", "apptainer", "--compression", "lz4", PATH=apptainer_path).parent


@pytest.fixture(scope="session")
def torch_env(test_home: Path) -> Path:
    return built("pytorch-cpu", test_home)


@pytest.fixture(scope="session")
def tensorflow_env(test_home: Path) -> Path:
    return built("tensorflow-onednn@2.21.0", test_home)


@pytest.fixture(scope="session")
def tensorflow_2_13_env(test_home: Path) -> Path:
    return built("tensorflow-onednn@2.13.0", test_home)


@pytest.fixture(scope="session")
def horovod_env(test_home: Path) -> Path:
    return built("tensorflow-horovod", test_home)


@pytest.fixture(scope="session")
def torch_horovod_env(test_home: Path) -> Path:
    return built("pytorch-horovod", test_home)


@pytest.fixture(scope="session")
def conda_channel(test_home: Path) -> Path:
    """A local conda channel of real packages, made once on a machine."""
    why = channel.lacking()
    if why and not os.environ.get("CI"):
        pytest.skip(f"no conda channel can be made here: {why}")
    return channel.have(test_home / "conda")
