"""Heads → numbers and pictures: the whole model, metrics, timing, `results.csv`, the report."""
