"""The folder of one study: where its files are, its data sets, and what may be pruned."""
