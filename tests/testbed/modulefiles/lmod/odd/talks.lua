help([[Says something each time it is loaded.]])
LmodMessage("This module will be retired: read the news.")
setenv("ODD_TALKS", "yes")
