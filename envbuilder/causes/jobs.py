"""What Slurm refuses, ends or kills."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_SLURM = "the text of Slurm 22.05"

CAUSES = (
    Cause(
        name="slurm-oom-kill",
        what="the job used more memory than it was given, and the kernel killed a process of it",
        signs=(
            Sign("oom_kill event"),
            Sign("oom-kill event"),
            Sign("Out Of Memory", r"error: \S+: tasks? [\d,-]+: Out Of Memory"),
            Sign("exceeded memory limit", r"exceeded memory limit \(\d+ > \d+\), being killed"),
        ),
        remedy=(
            "ask for more (--mem=0 for all of a node, or fewer ranks a node), or use less: smaller batches, "
            "fewer workers"
        ),
        sources=("nextflow-io/nextflow#5932", "chrisknewman/tusas#149", _SLURM),
        explains=("killed", "rank-died", "dataloader-killed", "compiler-killed", "slurm-cancelled"),
    ),
    Cause(
        name="slurm-wall-time",
        what="the job ran into its time limit",
        signs=(Sign("DUE TO TIME LIMIT"),),
        remedy="ask for more with --time, within the limit of the QoS, or write checkpoints and go on in a further job",
        sources=(_SLURM,),
        explains=("killed", "rank-died"),
    ),
    Cause(
        name="slurm-node-failed",
        what="a node of the job failed",
        signs=(Sign("DUE TO NODE FAILURE"), Sign("NODE_FAIL")),
        remedy="submit again, without that node (--exclude=NODE); tell the site if the same node fails twice",
        sources=(_SLURM,),
        explains=("rank-died", "collective-timeout", "killed"),
    ),
    Cause(
        name="slurm-preempted",
        what="a job of higher priority took the nodes",
        signs=(Sign("DUE TO PREEMPTION"),),
        remedy="submit again with a QoS that is not preempted, or write checkpoints and use --requeue",
        sources=(_SLURM,),
        explains=("killed", "rank-died"),
    ),
    Cause(
        name="slurm-cancelled",
        what="the job or step was cancelled, by a person or because one of its tasks ended",
        signs=(Sign(" CANCELLED AT ", r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT [-0-9T:]+ \*\*\*"),),
        remedy=(
            "look for what came before it in the log: srun ends all tasks when one fails; sacct shows who "
            "cancelled a job"
        ),
        sources=(_SLURM,),
        hint=True,
    ),
    Cause(
        name="slurm-qos",
        what="Slurm does not know the QoS, or you may not use it",
        signs=(Sign("Invalid qos specification"),),
        remedy="`sacctmgr show assoc user=$USER format=account,qos` lists yours; give one with --qos",
        sources=(_SLURM,),
        explains=("slurm-account",),
    ),
    Cause(
        name="slurm-account",
        what="Slurm does not know the account, or you may not use it in that partition",
        signs=(Sign("Invalid account or account/partition combination specified"),),
        remedy="give the account of your project with --account (sites often have another one for GPUs)",
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-limits",
        what="the job is more than the account or the QoS allows, in jobs, size or time",
        signs=(Sign("Job violates accounting/QOS policy"),),
        remedy=(
            "`sacctmgr show qos NAME format=maxwall,maxtres,maxsubmitpu` shows the limits; ask for less, or use "
            "another QoS"
        ),
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-time-limit-refused",
        what="the wall time asked for is missing, or more than the partition or QoS allows",
        signs=(Sign("Requested time limit is invalid"),),
        remedy="give --time, within the limit that `sinfo -o '%P %l'` and the QoS show",
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-partition",
        what="there is no such partition",
        says="there is no partition {partition}",
        signs=(Sign("invalid partition specified", r"invalid partition specified: (?P<partition>\S{1,80})"),),
        remedy="`sinfo -s` lists the partitions; a QoS (such as gpu-exc) is no partition",
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-constraint",
        what="no node has the feature that --constraint asks for",
        signs=(Sign("Invalid feature specification"),),
        remedy="`sinfo -o '%P %f'` lists the features of each partition",
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-memory-refused",
        what="no node of the partition has the memory asked for",
        signs=(Sign("Memory specification can not be satisfied"),),
        remedy="`sinfo -o '%P %m'` shows the memory of nodes in MB; ask for less, or for another partition",
        sources=(_SLURM,),
        explains=("slurm-configuration",),
    ),
    Cause(
        name="slurm-configuration",
        what="no node of the partition has what was asked for: GPUs, cores or tasks a node",
        signs=(Sign("Requested node configuration is not available"),),
        remedy=(
            "`sinfo -o '%P %G %c %D'` shows GPUs and cores; check --gpus, the GPU's type, --ntasks-per-node and "
            "--cpus-per-task"
        ),
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-step-gres",
        what="a step inside the job inherited the job's GPUs, which do not fit its own nodes",
        signs=(Sign("Invalid generic resource (gres) specification"),),
        remedy="give the step its own: srun --gpus=N, or --gres=none where it needs none",
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-no-controller",
        what="Slurm's controller does not answer",
        signs=(Sign("Unable to contact slurm controller"),),
        remedy=(
            "wait and try again; look at the site's status page; inside a container bind Slurm's configuration "
            "and munge's socket"
        ),
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-munge",
        what="Slurm's programs cannot reach munge, which says who you are",
        signs=(Sign("Munge encode failed"),),
        remedy="on a node: tell the site; in a container: bind munge's socket (commonly /run/munge)",
        sources=(_SLURM, "ARCHER2 documentation, containers: the bind list holds munge.socket.2"),
        explains=("slurm-no-controller",),
    ),
    Cause(
        name="slurm-folder-missing",
        what="the job's working directory is not there on the compute node",
        says="{folder} is not there on the compute node, and the job started in another folder",
        signs=(Sign("couldn't chdir to", r"couldn't chdir to [`'](?P<folder>[^'\n]{1,200})': "),),
        remedy="submit from a file system that compute nodes mount (on ARCHER2 /work, not /home), or give --chdir",
        sources=(_SLURM, "ARCHER2 documentation, hardware: /home is not mounted on compute nodes"),
        explains=("slurm-program-missing",),
    ),
    Cause(
        name="slurm-program-missing",
        what="srun did not find the program on the compute node",
        says="srun did not find {program} on the compute node",
        signs=(Sign("execve()", r"error: execve\(\): (?P<program>[^:\n]{1,200}): No such file or directory"),),
        remedy="activate the environment in the job script, before srun; give a path that compute nodes can see",
        sources=(_SLURM,),
    ),
    Cause(
        name="slurm-mpi-plugin",
        what="this Slurm has no such MPI plug-in",
        says="this Slurm has no MPI plug-in {plugin}",
        signs=(Sign("find the specified plugin name for mpi/", r"plugin name for mpi/(?P<plugin>\S{1,80})"),),
        remedy="`srun --mpi=list` shows what there is: pmi2 or cray_shasta for MPICH, pmix for OpenMPI",
        sources=(_SLURM,),
    ),
)
