help([[The processor to compile for.]])
family("craype_cpu")
setenv("CRAY_CPU_TARGET", (myModuleName():gsub("^craype%-", "")))
