#%Module1.0
conflict PrgEnv-gnu PrgEnv-cray
setenv PE_ENV CRAY
prepend-path PATH @ROOT@/opt/cray/pe/craype/2.7.19/bin
