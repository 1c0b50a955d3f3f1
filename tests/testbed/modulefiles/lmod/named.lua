help([[A name and a version only: nothing stands behind this module.]])
setenv((myModuleName():upper():gsub("[^A-Z0-9]", "_")) .. "_VERSION", myModuleVersion())
