"""The search space of configurations, and the trials that were run."""
