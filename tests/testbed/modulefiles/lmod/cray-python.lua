help([[Cray Python (a stand-in: an interpreter of this machine of the same minor version, without NumPy and mpi4py).]])
local version = myModuleVersion()
local prefix = "@ROOT@/opt/cray/pe/python/" .. version
setenv("CRAY_PYTHON_LEVEL", version)
setenv("CRAY_PYTHON_PREFIX", prefix)
prepend_path("PATH", prefix .. "/bin")
