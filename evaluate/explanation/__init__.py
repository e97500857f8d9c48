"""Activation maps: which parts of an image contributed to a prediction."""
