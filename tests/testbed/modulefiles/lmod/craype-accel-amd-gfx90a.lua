help([[Compile for AMD MI210 and MI250.]])
family("craype_accel")
setenv("CRAY_ACCEL_TARGET", "amd_gfx90a")
setenv("CRAY_ACCEL_VENDOR", "amd")
if mode() == "load" and not isloaded("rocm") then LmodMessage("no rocm module is loaded: load one as well") end
