"""Unpack a stranger's source archive: `unpack.py ARCHIVE SHA256 FOLDER`.

Nothing is written outside the folder, whatever the archive says: no absolute path, no `..`, no link that leads out, no device,
no more bytes or files than are bounded here. One folder that holds all the rest is taken away. The folder appears by a rename.
"""

import hashlib
import os
import posixpath
import resource
import shutil
import stat
import sys
import tarfile
import zipfile

MAX_BYTES = 16 << 30
MAX_FILES = 500_000
MAX_MEMORY = 4 << 30
CHUNK = 1 << 20
FIXED = 315532800  # 1980-01-01, so that what is made from the files' times is the same each time


class RefusedError(Exception):
    """What makes an archive one that is not unpacked."""


def safe_name(name):
    """The name of a member as a relative path, or "" for the folder itself; raises `RefusedError`."""
    if not name or len(name) > 4000 or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise RefusedError(f"it has a strange name: {ascii(name)[:200]}")
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise RefusedError(f"a name leads out of it: {ascii(name)[:200]}")
    path = posixpath.normpath(name)
    return "" if path == "." else path


def safe_link(name, target):
    """The target of a symbolic link at `name`; raises `RefusedError` for one that leads out."""
    reached = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if not target or target.startswith("/") or "\0" in target or reached == ".." or reached.startswith("../"):
        raise RefusedError(f"a link leads out of it: {ascii(name)[:200]} -> {ascii(target)[:200]}")
    return target


class Folder:
    """Writes members below a folder, never through a link, and counts."""

    def __init__(self, root):
        self.root = root
        self.bytes = 0
        self.files = 0
        os.makedirs(root)

    def _place(self, name):
        """The path for a member; its folders are made, and none of them is a link."""
        self.files += 1
        if self.files > MAX_FILES:
            raise RefusedError(f"it has more than {MAX_FILES} files")
        parts = name.split("/")
        for number in range(1, len(parts)):
            above = os.path.join(self.root, *parts[:number])
            if not os.path.lexists(above):
                os.mkdir(above, 0o755)
            elif not stat.S_ISDIR(os.lstat(above).st_mode):
                raise RefusedError(f"{ascii(name)[:200]} is below something that is no folder")
        path = os.path.join(self.root, *parts)
        if os.path.lexists(path) and not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)  # the last of a name counts, and nothing is written through a link
        return path

    def folder(self, name):
        path = self._place(name)
        if not os.path.isdir(path):
            os.mkdir(path, 0o755)

    def link(self, name, target):
        os.symlink(safe_link(name, target), self._place(name))

    def same(self, name, target):
        """A hard link: a copy of a file that was unpacked before."""
        other = os.path.join(self.root, *safe_name(target).split("/"))
        if os.path.realpath(other) != os.path.join(os.path.realpath(self.root), safe_name(target)):
            raise RefusedError(f"a hard link leads through a link: {ascii(name)[:200]}")
        if not os.path.isfile(other):
            raise RefusedError(f"a hard link leads to nothing: {ascii(name)[:200]} -> {ascii(target)[:200]}")
        with open(other, "rb") as source:
            self.file(name, source, os.stat(other).st_mode)

    def file(self, name, source, mode):
        path = self._place(name)
        with open(path, "xb") as sink:
            while True:
                block = source.read(CHUNK)
                if not block:
                    break
                self.bytes += len(block)
                if self.bytes > MAX_BYTES:
                    raise RefusedError(f"it unpacks to more than {MAX_BYTES >> 30} GiB")
                sink.write(block)
        os.chmod(path, 0o755 if mode & 0o111 else 0o644)
        os.utime(path, (FIXED, FIXED))


def unpack_tar(archive, folder):
    """Every member of a tar, compressed or not, in its order."""
    with tarfile.open(archive, "r:*") as opened:
        for member in opened:
            name = safe_name(member.name)
            if not name:
                continue
            if member.isdir():
                folder.folder(name)
            elif member.issym():
                folder.link(name, member.linkname)
            elif member.islnk():
                folder.same(name, member.linkname)
            elif member.isreg():
                folder.file(name, opened.extractfile(member), member.mode)
            else:
                raise RefusedError(f"it holds a device or a pipe: {ascii(name)[:200]}")


def unpack_zip(archive, folder):
    """Every member of a zip."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            name = safe_name(member.filename)
            mode = member.external_attr >> 16
            if member.flag_bits & 1:
                raise RefusedError(f"it is encrypted: {ascii(name)[:200]}")
            if not name:
                continue
            if member.filename.endswith("/"):
                folder.folder(name)
            elif stat.S_ISLNK(mode):
                if member.file_size > 4000:
                    raise RefusedError(f"a link is too long: {ascii(name)[:200]}")
                folder.link(name, opened.read(member).decode("utf-8", "replace"))
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise RefusedError(f"it holds a device or a pipe: {ascii(name)[:200]}")
            else:
                with opened.open(member) as source:
                    folder.file(name, source, mode)


def refuse_links_out(root):
    """What names alone cannot show: a link that leads out by way of other links. Nothing was written through any."""
    whole = os.path.realpath(root)
    for place, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(place, name)
            if os.path.islink(path) and not (os.path.realpath(path) + os.sep).startswith(whole + os.sep):
                raise RefusedError(f"a link leads out of it: {ascii(os.path.relpath(path, root))[:200]}")


def digest(path):
    """The sha256 of a file."""
    state = hashlib.sha256()
    with open(path, "rb") as source:
        for block in iter(lambda: source.read(CHUNK), b""):
            state.update(block)
    return state.hexdigest()


def unpack(archive, sha256, target):
    """Unpack a file with this sha256 to a folder that is not there; raises `RefusedError`."""
    found = digest(archive)
    if found != sha256:
        raise RefusedError(f"its sha256 is {found}, not {sha256}")
    part = target + ".part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    folder = Folder(part)
    try:
        # a tar may begin as a zip ends; what the file begins with decides
        with open(archive, "rb") as source:
            is_zip = source.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        (unpack_zip if is_zip else unpack_tar)(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, MemoryError) as error:
        raise RefusedError(f"it is damaged or no archive: {type(error).__name__}: {error}") from error
    entries = os.listdir(part)
    if not entries:
        raise RefusedError("it is empty")
    only = os.path.join(part, entries[0])
    alone = len(entries) == 1 and stat.S_ISDIR(os.lstat(only).st_mode)
    refuse_links_out(only if alone else part)
    if alone:
        os.rename(only, target)
        os.rmdir(part)
    else:
        os.rename(part, target)


def main(archive, sha256, target):
    """Say in one line why not, if not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    del soft
    limit = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        unpack(archive, sha256, target)
    except RefusedError as error:
        raise SystemExit(f"the archive {os.path.basename(archive)} is refused: {error}") from None
    except Exception as error:
        if type(error).__name__ in ("LZMAError", "error") or isinstance(error, OSError):
            raise SystemExit(f"the archive {os.path.basename(archive)} cannot be unpacked: {error}") from None
        raise


if __name__ == "__main__":
    main(*sys.argv[1:4])
