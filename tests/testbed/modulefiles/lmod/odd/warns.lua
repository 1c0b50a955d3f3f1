help([[Is loaded, and warns. Then Lmod 8.6 ends with 1, as if it had failed.]])
setenv("ODD_WARNS", "yes")
LmodWarning("this version will be retired")
