"""The HDF5 cache of embeddings. See `cache/README.md` for the file format.

In: rows of float32 embeddings, each keyed by the SHA-256 of its image.
Out: the same rows, verified.
Start with `embedding_key` (what makes two caches different), `segment` (one HDF5 file) and `store`
(all segments of a cache as one table). `maintenance/` compacts, verifies and copies caches.
"""
