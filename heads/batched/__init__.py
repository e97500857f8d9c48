"""Many heads trained in one pass, each as if it were trained alone."""
