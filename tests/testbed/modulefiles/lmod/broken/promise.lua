help([[Says that it sets PROMISE_ROOT, and does not.]])
setenv("PROMISE_VERSION", "1.0")
