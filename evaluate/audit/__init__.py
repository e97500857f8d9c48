"""What is wrong with a set of images: copies, leaks, conflicting labels, outliers."""
