"""Run a command that sees a packed tree at the tree's own prefix: `mounted.py mount|bind WHAT PREFIX -- CMD ...`.

`mount` has squashfuse_ll serve the squashfs file WHAT there, `bind` lays the folder WHAT over it. Either happens in a user
namespace and a mount namespace of this process, which then becomes the command: nobody else sees it, no program with special
rights is needed, and it goes when the command ends. User and group keep their numbers. See user_namespaces(7); that a
filesystem may be mounted by its already opened /dev/fuse, which libfuse 3 takes as `/dev/fd/N`, is in fuse(4) and libfuse's
`mount.c`.
"""

import ctypes
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _BIND, _RECURSIVE, _SLAVE, _REMOUNT = 1, 2, 4, 4096, 16384, 1 << 19, 32
_DIE_WITH_PARENT = 1
_SERVERS = ("squashfuse_ll", "squashfuse")
_PATIENCE_SECONDS = 30
_FAILED = 125  # as env(1) and timeout(1) say that they themselves failed

_libc = ctypes.CDLL(None, use_errno=True)


def main(words):
    """Lay the tree over its prefix and become the command; exits with 125 and a line on stderr where that cannot be."""
    how, what, prefix, mark, command = words[0], words[1], words[2], words[3], words[4:]
    if mark != "--" or not command:
        fail("usage: mounted.py mount|bind WHAT PREFIX -- CMD ...")
    folder = os.getcwd()
    os.makedirs(prefix, exist_ok=True)
    if how == "mount":
        server = next((path for path in map(shutil.which, _SERVERS) if path), None)
        if not server:
            fail("squashfuse is not on the PATH, so {} cannot be mounted".format(what))
        _apart()
        _served(server, what, prefix)
    else:
        _apart()
        _mount(what, prefix, None, _BIND | _RECURSIVE, None)
        _mount(None, prefix, None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES, None)
    if os.path.isdir(folder):
        os.chdir(folder)  # one below the prefix is still the one that was there before
    try:
        os.execvp(command[0], command)
    except OSError as error:
        fail("{}: {}".format(command[0], error.strerror), 127 if error.errno == errno.ENOENT else 126)


def _apart():
    """Go into namespaces of our own, in which we are still who we were."""
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_NEW_USER | _NEW_MOUNTS) != 0:
        fail("this system gives users no namespaces of their own: {}".format(_said()))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", "{0} {0} 1".format(user)),
        ("gid_map", "{0} {0} 1".format(group)),
    ):
        try:
            with open("/proc/self/" + name, "w") as told:
                told.write(text)
        except OSError as error:
            fail("/proc/self/{}: {}".format(name, error.strerror))
    _mount(None, "/", None, _RECURSIVE | _SLAVE, None)


def _served(server, what, prefix):
    """Mount it, and start the program that serves it; it ends when this process ends, whatever that has become."""
    fuse = _opened("/dev/fuse")  # in the namespace that mounts it, or the kernel refuses
    options = "fd={},rootmode={:o},user_id={},group_id={}".format(fuse, stat.S_IFDIR, os.geteuid(), os.getegid())
    _mount("squashfuse", prefix, "fuse.squashfuse", _READ_ONLY | _NO_SUID | _NO_DEVICES, options)
    parent = os.getpid()

    def bound():
        os.setsid()  # what a terminal or a launcher sends to the command's group is not for it
        _libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)

    said = tempfile.TemporaryFile()  # noqa: SIM115 - no pipe: nobody will read it later
    child = subprocess.Popen(
        [server, "-f", what, "/dev/fd/{}".format(fuse)],
        stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(fuse,),
        preexec_fn=bound,  # noqa: PLW1509 - this program has one thread
    )  # fmt: skip
    os.close(fuse)
    device = os.stat(os.path.dirname(prefix)).st_dev
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            if os.stat(prefix).st_dev != device:
                return
        except OSError as error:
            if child.poll() is None and error.errno != errno.ENOTCONN:
                fail("{}: {}".format(prefix, error.strerror))
        if child.poll() is not None:
            said.seek(0)
            fail("{} ended: {}".format(server, said.read().decode("utf-8", "replace").strip()[-300:]))
        if time.monotonic() > deadline:
            fail("{} did not serve {} within {} s".format(server, what, _PATIENCE_SECONDS))
        time.sleep(0.001)


def _opened(device):
    try:
        return os.open(device, os.O_RDWR)
    except OSError as error:
        return fail("{} cannot be opened: {}".format(device, error.strerror))


def _mount(source, target, kind, flags, options):
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    if _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        fail("mounting over {}: {}".format(target, _said()))


def _said():
    return os.strerror(ctypes.get_errno())


def fail(why, code=_FAILED):
    """End with a line on stderr."""
    sys.stderr.write("error: {}\n".format(why))
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
