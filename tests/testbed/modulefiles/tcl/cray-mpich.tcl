#%Module1.0
conflict cray-mpich
prereq PrgEnv-gnu
set version [file tail [module-info name]]
set base @ROOT@/opt/cray/pe/mpich/$version
setenv CRAY_MPICH_VERSION $version
setenv CRAY_MPICH_ROOTDIR $base
setenv CRAY_MPICH_DIR $base/ofi/gnu/9.1
setenv MPICH_DIR $base/ofi/gnu/9.1
prepend-path CRAY_LD_LIBRARY_PATH $base/gtl/lib
prepend-path CRAY_LD_LIBRARY_PATH $base/ofi/gnu/9.1/lib
