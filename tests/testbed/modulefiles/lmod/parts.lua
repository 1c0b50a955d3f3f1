-- Without cpe the default of each, whatever this version is: the trap. With it those of the release, also when both are
-- loaded by one command: its list of defaults is read only by the next.
local versions = {
@CPE_VERSIONS@
}
local function parts(...)
   local release = mode() == "load" and versions[os.getenv("CRAY_CPE_VERSION")] or {}
   for _, name in ipairs({ ... }) do
      local chosen
      for _, full in ipairs(release) do
         if full:match("^[^/]+") == name then chosen = full end
      end
      -- not `load`: Lmod would insist on what a later module of the same command replaces
      if chosen then try_load(chosen) else load(name) end
   end
end
