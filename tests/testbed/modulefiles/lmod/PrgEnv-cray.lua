help([[The Cray programming environment (a stand-in: the compiler behind cc is GNU's).]])
family("PrgEnv")
setenv("PE_ENV", "CRAY")
@PARTS@
parts("cce", "craype", "cray-dsmml", "cray-mpich", "cray-libsci")
