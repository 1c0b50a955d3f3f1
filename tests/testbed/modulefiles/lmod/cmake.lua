help([[CMake (whatever this machine has, if it has one).]])
prepend_path("PATH", "@ROOT@/work/y07/shared/utils/core/cmake/" .. myModuleVersion() .. "/bin")
