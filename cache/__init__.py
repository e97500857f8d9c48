"""The HDF5 cache of embeddings: identity, segments, reading, verifying. See `cache/README.md`."""
