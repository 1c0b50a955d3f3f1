help([[Intel MKL (a stand-in: empty directories).]])
local prefix = "@ROOT@/work/y07/shared/libs/core/mkl/" .. myModuleVersion()
setenv("MKLROOT", prefix)
prepend_path("LD_LIBRARY_PATH", prefix .. "/lib/intel64")
