"""Embeddings → trained heads: tables of heads and optimizers, splits, training, saving."""
