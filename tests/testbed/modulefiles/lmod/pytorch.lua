help([[The site's own PyTorch (a stand-in: the package torch in it says so). Its PYTHONPATH goes before any venv.]])
load("PrgEnv-gnu", "cray-python/3.9.13.1", "rocm/5.2.3", "craype-accel-amd-gfx90a")
local base = "@ROOT@/work/y07/shared/python/core/pytorch/" .. myModuleVersion() .. "/python/3.9.13.1"
prepend_path("PATH", base .. "/bin")
prepend_path("PYTHONPATH", base .. "/lib/python3.9/site-packages")
