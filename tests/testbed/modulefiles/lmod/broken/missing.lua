setenv("BROKEN_MISSING", "set before the failure")
load("no-such-module/1.0")
