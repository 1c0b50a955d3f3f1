setenv("BROKEN_REFUSES", "set before the failure")
LmodError("the licence server does not answer")
