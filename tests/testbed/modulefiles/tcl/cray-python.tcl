#%Module1.0
conflict cray-python
set version [file tail [module-info name]]
setenv CRAY_PYTHON_LEVEL $version
setenv CRAY_PYTHON_PREFIX @ROOT@/opt/cray/pe/python/$version
prepend-path PATH @ROOT@/opt/cray/pe/python/$version/bin
