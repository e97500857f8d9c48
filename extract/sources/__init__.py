"""Where images come from: file names, hashes, CSV manifests, zip and tar archives, URLs."""
