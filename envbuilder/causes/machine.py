"""Disks, memory, files and processors of the machine."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_STRERROR = "the text of the C library"

CAUSES = (
    Cause(
        name="disk-full",
        what="no space is left on a disk",
        signs=(Sign("No space left on device"),),
        remedy=(
            "`df -h` and `df -i` show which disk; `envbuilder gc` removes old environments; TMPDIR may lead to a "
            "larger one"
        ),
        sources=(_STRERROR,),
        explains=("hash-mismatch", "library-damaged", "archive-damaged"),
    ),
    Cause(
        name="disk-quota",
        what="a disk quota is used up, in bytes or in number of files",
        signs=(Sign("Disk quota exceeded"),),
        remedy=(
            "the site's quota command (`quota -s`, `lfs quota -hu $USER PATH`) shows which; put store and caches "
            "onto scratch"
        ),
        sources=(_STRERROR,),
        explains=("archive-damaged",),
    ),
    Cause(
        name="read-only",
        what="something was to be written to a file system that is read-only here",
        signs=(Sign("Read-only file system"),),
        remedy=(
            "write elsewhere: set HOME, TMPDIR and the caches to a folder that compute nodes (or the container) "
            "may write"
        ),
        sources=(_STRERROR,),
    ),
    Cause(
        name="permission-denied",
        what="a file or folder may not be read or written by you",
        says="you may not read or write {path}",
        signs=(
            Sign("[Errno 13] Permission denied", r"Permission denied: '(?P<path>[^'\n]{1,300})'"),
            Sign("os error 13", r"`(?P<path>[^`\n]{1,300})`: Permission denied \(os error 13\)"),
        ),
        remedy="`namei -l PATH` shows which folder refuses; write into your own, or ask its owner",
        sources=("the text of Python 3.11",),
        unless=(Sign("/dev/kfd"),),
    ),
    Cause(
        name="file-locking",
        what="HDF5 could not lock a file: another process has it open, or the file system knows no locks",
        signs=(Sign("unable to lock file", r"unable to lock file, errno = \d+"),),
        remedy="open it for reading only in all processes; on Lustre without locks set HDF5_USE_FILE_LOCKING=FALSE",
        sources=("the text of h5py 3 with HDF5 1.14", "NERSC/dl-at-scale-training: submit_pm.sh sets the variable"),
    ),
    Cause(
        name="too-many-files",
        what="the process has more files open than it may",
        signs=(Sign("Too many open files"),),
        remedy="`ulimit -n` shows the limit, `ulimit -n $(ulimit -Hn)` raises it; use fewer data-loading workers",
        sources=(_STRERROR,),
    ),
    Cause(
        name="shared-memory-full",
        what="the shared memory of the node is full, through which data-loading workers pass batches",
        signs=(
            Sign("dataloader's workers are out of shared memory"),
            Sign("insufficient shared memory (shm)"),
        ),
        remedy="use fewer workers or smaller batches; give a container more of it (--shm-size, or bind the host's)",
        sources=("pytorch/pytorch#5040",),
        explains=("dataloader-killed", "rank-died"),
    ),
    Cause(
        name="memory-array",
        what="more memory was asked for than there is",
        says="{size} were asked for at once, which is more memory than there is",
        signs=(
            Sign("Unable to allocate", r"Unable to allocate (?P<size>[\d.]{1,20} [KMGTPE]iB) for an array"),
            Sign("DefaultCPUAllocator", r"can't allocate memory: you tried to allocate (?P<size>\d{1,30} bytes)"),
        ),
        remedy="check the shape in the lines above; read data in pieces; ask for a node with more memory",
        sources=("the texts of NumPy 2 and PyTorch 2.13",),
    ),
    Cause(
        name="dataloader-killed",
        what="a data-loading worker was killed, most often because memory ran out",
        signs=(
            Sign("is killed by signal: Killed", r"DataLoader worker \(pid \d+\) is killed by signal: Killed"),
            Sign("exited unexpectedly", r"DataLoader worker \(pid\(s\) [\d, ]{1,200}\) exited unexpectedly"),
        ),
        remedy="ask for more memory, or use fewer workers; num_workers=0 shows an error of the data set itself",
        sources=("the text of PyTorch 2.13",),
        explains=("rank-died",),
    ),
    Cause(
        name="threads-refused",
        what="no more threads or processes may be started",
        signs=(
            Sign("can't start new thread"),
            Sign("pthread_create failed", r"pthread_create failed for thread \d+ of \d+"),
            Sign("fork: retry: Resource temporarily unavailable"),
        ),
        remedy=(
            "set OMP_NUM_THREADS and OPENBLAS_NUM_THREADS to the cores of a rank; `ulimit -u` shows the limit on "
            "login nodes"
        ),
        sources=("the text of Python 3.11", "OpenMathLib/OpenBLAS: blas_thread_init"),
    ),
    Cause(
        name="illegal-instruction",
        what="the program was built for another processor than this one",
        signs=(
            Sign("Illegal instruction"),
            Sign("but these aren't available on your machine", r"compiled to use .{1,200} but these aren't available"),
        ),
        remedy=(
            "build on the partition that it runs on, or for its processor (-march=native only on the same kind of node)"
        ),
        sources=("the text of bash 5.2", "tensorflow/tensorflow: cpu_feature_guard.cc"),
    ),
    Cause(
        name="other-architecture",
        what="a program for another kind of processor was started, as one for x86-64 on an Arm node",
        signs=(Sign("Exec format error"),),
        remedy="`file PROGRAM` and `uname -m` show the two; build on the partition that it runs on",
        sources=(_STRERROR,),
    ),
    Cause(
        name="killed",
        what="a process was killed from outside; out of memory is the usual reason",
        signs=(
            Sign(" Killed ", r"line \d+: +\d+ Killed {2,}"),
            Sign("task", r"srun: error: \S+: tasks? [\d,-]+: Killed"),
        ),
        remedy="`sacct -j JOB -o state,maxrss,reqmem` or `dmesg` tells; ask for more memory",
        sources=("the text of bash 5.2", "the text of Slurm 22.05"),
        unless=(Sign(" CANCELLED AT "),),
        explains=("rank-died",),
    ),
    Cause(
        name="stale-handle",
        what="a file was replaced or removed on another node while it was in use here",
        signs=(Sign("Stale file handle"), Sign("Stale NFS file handle")),
        remedy="run the same command again; do not rebuild an environment in place while jobs use it",
        sources=(_STRERROR,),
    ),
)
