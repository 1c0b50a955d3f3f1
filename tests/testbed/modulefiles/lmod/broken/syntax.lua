setenv("BROKEN_SYNTAX", "never"
this is not Lua
