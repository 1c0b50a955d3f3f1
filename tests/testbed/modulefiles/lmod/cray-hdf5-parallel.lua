help([[Parallel HDF5 (a stand-in: empty directories).]])
local prefix = "@ROOT@/opt/cray/pe/hdf5-parallel/" .. myModuleVersion() .. "/gnu/9.1"
setenv("CRAY_HDF5_PARALLEL_VERSION", myModuleVersion())
setenv("CRAY_HDF5_PARALLEL_PREFIX", prefix)
setenv("HDF5_DIR", prefix)
setenv("HDF5_ROOT", prefix)
prepend_path("CRAY_LD_LIBRARY_PATH", prefix .. "/lib")
