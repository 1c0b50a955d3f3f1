#%Module1.0
conflict rocm
set path @ROOT@/opt/rocm-[file tail [module-info name]]
setenv ROCM_PATH $path
setenv CRAY_ROCM_DIR $path
prepend-path LD_LIBRARY_PATH $path/lib
