"""Intervals, comparisons on the same images, effects of settings, calibration, agreement."""
