"""Images → embeddings.

In: a folder, list, archive or URL of labelled images, and a backbone.
Out: cached embeddings.
Start with `dataset` (find and hash images), `imaging/decode` (bytes → gray pixels), `backbones`
(the table), `embedding_spec` (what fills one cache), `embedder` (pixels → embeddings) and
`pipeline` (the extraction run). Extensions: `sources/`, `backends/`, `model_zoo/`, `distributed/`.
"""
