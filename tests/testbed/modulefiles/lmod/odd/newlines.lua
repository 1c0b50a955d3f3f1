help([[A value of several lines. Lmod 8.6 hands it to bash so that the first line is the value and the second is run.]])
setenv("ODD_NEWLINES", "first\nODD_RUN=yes")
