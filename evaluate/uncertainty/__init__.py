"""Scores that flag a prediction for review, fitted on corrupted and held-out images."""
