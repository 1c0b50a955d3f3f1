"""Compile a source into a wheel: `compile.py SPEC.json`, made by `envbuilder.builders.source`.

Runs one command with as many compilers at once as cores and memory allow, keeps its log, and then judges: the log by the
recipe's rules, the wheel by its name and version. With `resume` it goes on in the folder where an earlier run was killed.
"""

import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time

MARK = "ENVBUILDER_COMPILES_IN"  # set to the work folder, for us and for all that we start
SEARCH_SECONDS = 30
MAX_LINE = 10_000
MAX_LOG = 256 << 20
GRACE_SECONDS = 5.0
UNPACKED = 315532800  # the time that unpack.py gives to files: what has it was not made here
LAUNCHERS = ("C", "CXX", "CUDA", "HIP", "Fortran")


def jobs(cores, available_gib, memory_gib):
    """How many compilers at once: no more than cores, no more than memory holds, at least one."""
    return max(1, min(cores, int(available_gib // memory_gib)))


def available_gib(meminfo, groups):
    """The memory that is free: the machine's, or less where a control group allows less (pairs of limit and use)."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    free = [int(found.group(1)) * 1024] if found else []
    free += [max(0, int(limit) - int(used)) for limit, used in groups if limit.isdigit() and used.isdigit()]
    return min(free) / 2**30 if free else 1.0


def memory_groups(cgroup, root="/sys/fs/cgroup"):
    """Limit and use of every control group that we are in, as their files say."""
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root if controllers == "" else os.path.join(root, "memory")
        limit, used = ("memory.max", "memory.current") if controllers == "" else (
            "memory.limit_in_bytes", "memory.usage_in_bytes")  # fmt: skip
        parts = [part for part in path.split("/") if part]
        for number in range(len(parts) + 1):
            folder = os.path.join(base, *parts[:number])
            yield read(os.path.join(folder, limit)).strip(), read(os.path.join(folder, used)).strip()


def read(path):
    """The text of a file, or nothing."""
    try:
        with open(path, errors="replace") as source:
            return source.read()
    except OSError:
        return ""


def parallel(number, env):
    """The variables by which build systems are told how many; what the recipe sets stays."""
    wanted = {"MAX_JOBS": str(number), "CMAKE_BUILD_PARALLEL_LEVEL": str(number), "MAKEFLAGS": f"-j{number}"}
    return {name: value for name, value in wanted.items() if name not in env}


def cached(ccache, folder, env, masquerades=("/usr/lib/ccache", "/usr/lib64/ccache")):
    """The variables that put ccache in front of the compilers; it changes no result."""
    if not ccache:
        return {}
    found = {f"CMAKE_{language}_COMPILER_LAUNCHER": ccache for language in LAUNCHERS}
    found = {name: value for name, value in found.items() if name not in env}
    found["CCACHE_DIR"] = folder
    front = [place for place in masquerades if os.path.isdir(place)]
    if front:
        found["PATH"] = os.pathsep.join([*front[:1], env.get("PATH", os.defpath)])
    return found


def is_whole(path):
    """Whether an object file is all there: a compiler that is killed may leave one that a build system takes for made."""
    with open(path, "rb") as source:
        head = source.read(64)
        size = os.fstat(source.fileno()).st_size
    if head[:4] != b"\x7fELF":
        return bool(head.strip(b"\0"))  # an assembler writes the head last
    if len(head) < 64:
        return False
    order = "<" if head[5] == 1 else ">"
    if head[4] == 2:
        at, entry, count = (*struct.unpack(order + "Q", head[40:48]), *struct.unpack(order + "HH", head[58:62]))
    else:
        at, entry, count = (*struct.unpack(order + "I", head[32:36]), *struct.unpack(order + "HH", head[46:50]))
    return at > 0 and at + entry * count <= size


def remove_damaged(root):
    """Remove object files that are not whole, and say which."""
    gone = []
    for place, _, files in os.walk(root):
        for name in files:
            path = os.path.join(place, name)
            if not name.endswith((".o", ".a", ".so")) or os.path.islink(path) or os.stat(path).st_mtime == UNPACKED:
                continue
            if not is_whole(path):
                os.unlink(path)
                gone.append(path)
    return gone


def orphans(work):
    """Processes that an earlier run in this folder started and that outlived it."""
    mark = f"{MARK}={work}".encode() + b"\0"
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as source:
                    if mark in source.read() + b"\0":
                        yield int(entry)
            except OSError:
                continue  # another user's, or gone


def end_orphans(work):
    """End them, so that no two builds write into one folder; asked first, since build systems then tidy up."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE_SECONDS
        for pid in orphans(work):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while list(orphans(work)):
            if time.monotonic() > until:
                break
            time.sleep(0.1)
        else:
            return


def hits(lines, rules):
    """The rules that a line of the log breaks, each with the first such line; raises `TimeoutError`."""

    def out_of_time(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, SEARCH_SECONDS)
    try:
        patterns = [(re.compile(rule["pattern"]), rule) for rule in rules]
        found = []
        for number, line in enumerate(lines, 1):
            for pattern, rule in list(patterns):
                if pattern.search(line[:MAX_LINE]):
                    found.append((number, line.strip(), rule))
                    patterns.remove((pattern, rule))
        return found
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judged(log, rules):
    """What is wrong by the recipe's rules, in words; nothing if all is well."""
    if not rules:
        return []
    if os.path.getsize(log) > MAX_LOG:
        return [f"the log is too long to be searched: {log}"]
    try:
        with open(log, encoding="utf-8", errors="replace") as source:
            found = hits(source, rules)
    except TimeoutError:
        return [f"the log could not be searched in {SEARCH_SECONDS} s; a pattern of fail_if_log is too slow"]
    return [
        f"line {number} of the log says what it must not: {rule['why']}\n    {line[:500]}\n    (matches {rule['pattern']})"
        for number, line, rule in found
    ]


def normal(name):
    """A distribution's name as wheels spell it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def wheel_problem(out, name, version):
    """What is wrong with what was made, or nothing; `version` is a pattern of its spellings."""
    wheels = [entry for entry in os.listdir(out) if entry.endswith(".whl")]
    if len(wheels) != 1:
        return f"one wheel was wanted, and there are {len(wheels)}: {', '.join(sorted(wheels)) or 'none'}"
    parts = wheels[0].split("-")
    if normal(parts[0]) != normal(name):
        return f"{wheels[0]} is not {name}, as the recipe says"
    if version and parts[1] not in version:
        return f"{wheels[0]} is not version {version[0]} of {name}, as the recipe says"
    return ""


def run(command, cwd, env, log):
    """Run the command, its output into the log and to ours; its exit code."""
    with open(log, "ab") as sink:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        stream = process.stdout.fileno()
        while True:
            ready, _, _ = select.select([stream], [], [], 0.2)
            block = os.read(stream, 1 << 16) if ready else b""
            if block:
                sink.write(block)
                sink.flush()
                os.write(1, block)
            elif ready or process.poll() is not None:
                break  # at its end; a server that it left behind does not hold us
        return process.wait()


def environment(spec):
    """The variables of the compilation."""
    env = dict(os.environ)
    if spec["memory_gib"]:
        free = available_gib(read("/proc/meminfo"), list(memory_groups(read("/proc/self/cgroup"))))
        number = jobs(len(os.sched_getaffinity(0)), free, spec["memory_gib"])
        env.update(parallel(number, env))
        sys.stdout.write(f"{number} compilers at once: {len(os.sched_getaffinity(0))} cores, {free:.1f} GiB free\n")
        sys.stdout.flush()
    env.update(cached(shutil.which("ccache"), spec["ccache"], env))
    return env


def main(spec_file):
    """Compile and judge; exits with what went wrong."""
    with open(spec_file, encoding="utf-8") as source:
        spec = json.load(source)
    end_orphans(spec["work"])
    if spec["resume"]:
        for path in remove_damaged(spec["source"]):
            sys.stdout.write(f"removed, since it was not finished: {path}\n")
            sys.stdout.flush()
    os.makedirs(spec["out"], exist_ok=True)
    os.makedirs(os.environ["HOME"], exist_ok=True)
    for entry in os.listdir(spec["out"]):
        if entry.endswith(".whl"):
            os.unlink(os.path.join(spec["out"], entry))
    env, started = environment(spec), time.monotonic()
    code = run(spec["command"], spec["work"], env, spec["log"])
    sys.stdout.write(f"the compilation took {time.monotonic() - started:.2f} s\n")
    sys.stdout.flush()
    wrong = judged(spec["log"], spec["rules"])
    if not code and not wrong:
        problem = wheel_problem(spec["out"], spec["name"], spec["version"])
        wrong = [problem] if problem else []
    if wrong and os.path.exists(spec["prepared"]):
        os.unlink(
            spec["prepared"]
        )  # what it found on the machine is remembered in its folder: the next run starts afresh
    if wrong:
        raise SystemExit("\n".join(wrong))
    if code:
        raise SystemExit(code if code > 0 else 1)


if __name__ == "__main__":
    main(sys.argv[1])
