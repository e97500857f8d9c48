"""Images → embeddings.

In: a folder, list, archive or URL of labelled images, and a backbone.
Out: cached embeddings.
Start with `dataset` (find and hash images), `decode` (bytes → gray pixels), `backbones` (the
table), `embedder` (what fills one cache) and `pipeline` (the extraction run). Extensions:
`sources/`, `backends/`, `model_zoo/`, `distributed/`, `imaging/`, `index/`.
"""
