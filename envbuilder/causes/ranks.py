"""Ranks of a training job that have to find each other, and stay."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_TORCH = "the text of PyTorch 2.13"

CAUSES = (
    Cause(
        name="port-in-use",
        what="the port where ranks meet is taken, as by another job on the same node",
        signs=(
            Sign("EADDRINUSE"),
            Sign("failed to bind to", r"failed to bind to .{0,120}\(errno: 98 - Address already in use\)"),
            Sign("[Errno 98] Address already in use"),
        ),
        remedy="give each job its own: MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
        sources=(_TORCH, "LUMI's PyTorch containers use one fixed port, 29500"),
        explains=("rendezvous-timeout", "rank-died"),
    ),
    Cause(
        name="ranks-missing",
        what="not all ranks came: fewer were started than the world size says, or some could not reach the first",
        says="only {came} ranks came",
        signs=(Sign("clients joined", r"waiting for clients\. (?P<came>\d{1,9}/\d{1,9}) clients joined"),),
        remedy="compare WORLD_SIZE with the tasks of srun; MASTER_ADDR must be the node of rank 0 and the same on all",
        sources=(_TORCH,),
    ),
    Cause(
        name="rendezvous-variables",
        what="the launcher did not set what PyTorch takes rank and address from",
        says="{variable} is not set, which PyTorch takes rank and address from",
        signs=(Sign("environment variable", r"environment variable (?P<variable>[A-Z_]{1,40}) expected, but not set"),),
        remedy=(
            "set RANK, LOCAL_RANK, WORLD_SIZE from SLURM_PROCID, SLURM_LOCALID, SLURM_NTASKS, and MASTER_ADDR, "
            "MASTER_PORT; or use torchrun"
        ),
        sources=(_TORCH,),
    ),
    Cause(
        name="rendezvous-timeout",
        what="a rank could not reach the first one",
        says="a rank could not reach the first one at {address}",
        signs=(
            Sign("The client socket has", r"connect to (?:any network address of )?\((?P<address>[^)\n]{1,255})\)"),
        ),
        remedy=(
            "MASTER_ADDR must be the node of rank 0, by a name that the nodes know (hostname -i, or the hsn "
            "name); rank 0 may be gone"
        ),
        sources=(_TORCH,),
        unless=(Sign("EADDRINUSE"),),
    ),
    Cause(
        name="network-interface",
        what="the network interface that was named is not on this node",
        says="there is no usable network interface {interface} on this node",
        signs=(
            Sign("Unable to find address for", r"Unable to find address for: (?P<interface>\S{1,40})"),
            Sign("no socket interface found", r"Bootstrap : (?P<interface>)no socket interface found"),
            Sign("interface found", r"Bootstrap : (?P<interface>)no NCCL_SOCKET_IFNAME interface found"),
        ),
        remedy=(
            "`ip -br addr` on the node shows them; set NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME to one that all "
            "nodes have (hsn on Slingshot)"
        ),
        sources=(_TORCH, "marin-community/marin#6940", "NVIDIA/nccl#1837"),
    ),
    Cause(
        name="collective-timeout",
        what=(
            "ranks waited for another one that did not come: it died, is slow, or took another path through the program"
        ),
        signs=(Sign("Watchdog caught collective operation timeout"),),
        remedy=(
            "look for the rank that is missing among those that complain; all ranks must do the same collectives "
            "in the same order"
        ),
        sources=("NVIDIA/Megatron-LM#1207", "pytorch/pytorch#118369"),
    ),
    Cause(
        name="rank-died",
        what="a rank ended while others still spoke with it",
        signs=(
            Sign("Connection closed by peer", r"gloo/transport/.{0,120}Connection closed by peer"),
            Sign("Connection reset by peer", r"gloo/transport/.{0,120}Connection reset by peer"),
            Sign("Connection closed by remote peer", r"NCCL WARN .{0,80}Connection closed by remote peer"),
        ),
        remedy="this is a consequence: look into the log of the rank that ended first",
        sources=(_TORCH, "NVIDIA/nccl#1232"),
        hint=True,
    ),
)
