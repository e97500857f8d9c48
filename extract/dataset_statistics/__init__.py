"""Numbers of a whole data set: statistics of its images, mean and standard deviation."""
