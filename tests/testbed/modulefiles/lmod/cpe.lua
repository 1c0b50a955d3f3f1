help([[One release of the programming environment: makes its versions the default ones and switches to them what is loaded.]])
family("cpe")
local release = myModuleVersion()
setenv("CRAY_CPE_VERSION", release)
prepend_path("LMOD_MODULERCFILE", "@ROOT@/opt/cray/pe/cpe/" .. release .. "/modulerc.lua")
local versions = {
@CPE_VERSIONS@
}
if mode() == "load" then
   for _, name in ipairs(versions[release]) do
      -- PrgEnv is the first and brings most of the others. Not `load`: Lmod would insist on what the same command replaces.
      if isloaded(name:match("^[^/]+")) and not isloaded(name) then try_load(name) end
   end
elseif mode() == "unload" then
   LmodMessage("Unloading cpe does not bring back the default versions: log in anew.")
end
