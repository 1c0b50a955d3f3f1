help([[FFTW (a stand-in: empty directories).]])
local prefix = "@ROOT@/opt/cray/pe/fftw/" .. myModuleVersion() .. "/x86_rome"
setenv("CRAY_FFTW_VERSION", myModuleVersion())
setenv("FFTW_ROOT", prefix)
setenv("FFTW_DIR", prefix .. "/lib")
setenv("FFTW_INC", prefix .. "/include")
prepend_path("CRAY_LD_LIBRARY_PATH", prefix .. "/lib")
