help([[libfabric (a stand-in: an empty library directory).]])
prepend_path("LD_LIBRARY_PATH", "@ROOT@/opt/cray/libfabric/" .. myModuleVersion() .. "/lib64")
