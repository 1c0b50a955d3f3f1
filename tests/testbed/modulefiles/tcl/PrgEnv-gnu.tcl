#%Module1.0
conflict PrgEnv-cray PrgEnv-gnu
setenv PE_ENV GNU
prepend-path PATH @ROOT@/opt/cray/pe/craype/2.7.19/bin
