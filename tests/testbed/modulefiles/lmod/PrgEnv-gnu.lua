help([[The GNU programming environment (a stand-in).]])
family("PrgEnv")
setenv("PE_ENV", "GNU")
@PARTS@
parts("gcc", "craype", "cray-dsmml", "cray-mpich", "cray-libsci")
