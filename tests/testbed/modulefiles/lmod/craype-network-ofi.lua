help([[MPI over libfabric (here: a name; Debian's MPICH speaks UCX).]])
family("craype_network")
setenv("CRAYPE_NETWORK_TARGET", "ofi")
