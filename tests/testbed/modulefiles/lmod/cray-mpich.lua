help([[Cray MPICH (a stand-in: Debian's MPICH under Cray's names). Does not touch LD_LIBRARY_PATH.]])
family("mpi")
local version = myModuleVersion()
local base = "@ROOT@/opt/cray/pe/mpich/" .. version
local flavour = os.getenv("PE_ENV") == "GNU" and "/ofi/gnu/9.1" or "/ofi/crayclang/10.0"
-- by the time it is unloaded, PE_ENV may be another's
local dir = mode() == "unload" and os.getenv("CRAY_MPICH_DIR") or base .. flavour
setenv("CRAY_MPICH_VERSION", version)
setenv("CRAY_MPICH_ROOTDIR", base)
setenv("CRAY_MPICH_DIR", dir)
setenv("CRAY_MPICH_PREFIX", dir)
setenv("CRAY_MPICH_BASEDIR", base .. "/ofi")
setenv("MPICH_DIR", dir)
setenv("PE_MPICH_GTL_DIR_amd_gfx90a", "-L" .. base .. "/gtl/lib")
setenv("PE_MPICH_GTL_LIBS_amd_gfx90a", "-lmpi_gtl_hsa")
prepend_path("PATH", dir .. "/bin")
prepend_path("CRAY_LD_LIBRARY_PATH", base .. "/gtl/lib")
prepend_path("CRAY_LD_LIBRARY_PATH", dir .. "/lib")
