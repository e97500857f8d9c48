"""Embeddings → trained heads.

In: cached embeddings with labels, and configurations.
Out: heads as safetensors files.
Start with `config` (what a head is trained from), `architectures` (the table), `training` (the run
on one cache), `store` (files) and `inference` (logits by numpy). Extensions: `batched/` trains many
heads in one pass, `search/` holds grids and trials, `ray` runs parts of a search on a cluster.
"""
