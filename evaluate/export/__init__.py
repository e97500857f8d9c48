"""Models, embeddings and curves as files for other programs."""
