"""Which CPUs this process may run on, who decided that, and how many threads its libraries compute with.

Lists of CPUs are written as the kernel writes them: `0-3,8`. A CPU is a hardware thread, as Linux counts.
"""

import math
import os
import socket
import sys

# what decides where threads run and how many there are
PLACING = ("OMP_PLACES", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "SLURM_CPU_BIND", "I_MPI_PIN_DOMAIN")
ASKED = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
COUNTING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")

GROUPS, OWN_GROUPS = "/sys/fs/cgroup", "/proc/self/cgroup"


def bound(started_on):
    """The CPUs after MPI_Init, which may bind by itself, and what was there to be given out.

    `around` are the CPUs of the process that started the launch where it is on this host (`started_on`: its `host` and
    `cpus`), else those of this process' parent; `cpuset` those that the control group allows; `quota` how many CPUs' time
    it allows (0: no limit).
    """
    host = socket.gethostname()
    return {
        "host": host,
        "cpus": listed(os.sched_getaffinity(0)),
        "around": started_on["cpus"] if started_on.get("host") == host else allowed(os.getppid()),
        "cpuset": cpuset(),
        "quota": quota(),
        "variables": {name: os.environ[name] for name in PLACING + ASKED + COUNTING if os.environ.get(name)},
    }


def threads(own):
    """The live threads: the CPUs that any of them may use, and how many; what each framework says that it computes with.

    `own` are variables that the launch set by itself, where nobody had. A framework that leaves the number to the CPUs it
    may use is told as 0.
    """
    tasks = os.listdir("/proc/self/task")
    found = set()
    for task in tasks:
        found |= numbers(allowed("self/task/" + task))
    return {"cpus": listed(found), "count": len(tasks), "computing": computing(), "own": dict(own)}


def computing():
    """Of each framework that is loaded: the threads of one operation."""
    facts = {}
    torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
    if torch is not None:
        facts["torch"] = torch.get_num_threads()
    if tensorflow is not None:
        told = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
        # the program's own setting comes before the variable; 0 is no setting
        asked = tensorflow.config.threading.get_intra_op_parallelism_threads()
        facts["tensorflow"] = asked or (int(told) if told.isdigit() else 0)
    return facts


def allowed(process):
    """The CPUs of another process; "" where that cannot be read."""
    try:
        with open("/proc/{}/status".format(process), encoding="ascii", errors="replace") as source:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in source if ":\t" in line)
    except OSError:
        return ""
    return lines.get("Cpus_allowed_list", "")


def cpuset(root=GROUPS, own=OWN_GROUPS):
    """The CPUs that the control group allows; "" where none can be read."""
    names = ("cpuset.cpus.effective", "cpuset.effective_cpus")
    return next((text for text in _groups("cpuset", names, root, own) if text), "")


def quota(root=GROUPS, own=OWN_GROUPS):
    """How many CPUs' time the control groups of this process allow, the least of them; 0 where there is no limit."""
    limits = []
    for text in _groups("cpu", ("cpu.max",), root, own):  # "200000 100000" or "max 100000", in microseconds
        part, _, period = text.partition(" ")
        if part.isdigit() and period.isdigit():
            limits.append(int(part) / int(period))
    parts = [int(text) for text in _groups("cpu", ("cpu.cfs_quota_us",), root, own)]
    periods = [int(text) for text in _groups("cpu", ("cpu.cfs_period_us",), root, own)]
    limits += [part / period for part, period in zip(parts, periods) if part > 0 and period > 0]
    return math.ceil(10 * min(limits)) / 10 if limits else 0


def _groups(controller, names, root, own):
    """The texts of files of that name in this process' control group and in those around it, the innermost first."""
    found = []
    for folder in _folders(controller, root, own):
        for name in names:
            try:
                with open(os.path.join(folder, name), encoding="ascii") as source:
                    found.append(source.read().strip())
            except (OSError, ValueError):
                continue
    return found


def _folders(controller, root, own):
    """Both versions: `0::/path` is below the root, `4:cpu,cpuacct:/path` below the controller's own."""
    try:
        with open(own, encoding="utf-8", errors="replace") as source:
            lines = [line.rstrip("\n").split(":", 2) for line in source]
    except OSError:
        return []
    folders = []
    for number, controllers, path in (line for line in lines if len(line) == 3):
        if number == "0":
            mounts = (root, os.path.join(root, "unified"))
        elif controller in controllers.split(","):
            mounts = (os.path.join(root, controllers), os.path.join(root, controller))
        else:
            continue
        for mount in dict.fromkeys(mounts):
            # a container sees its own group as the root, and the path from outside
            below = path.strip("/").split("/") if path.strip("/") else []
            folders += [os.path.join(mount, *below[:depth]) for depth in range(len(below), -1, -1)]
    return list(dict.fromkeys(folders))


def listed(cpus):
    """CPUs as the kernel lists them."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else "{}-{}".format(first, last) for first, last in parts)


def numbers(text):
    """The CPUs of such a list."""
    found = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            found |= set(range(int(first), int(last or first) + 1))
    return found
