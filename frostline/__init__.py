"""Frostline: run every frozen backbone once, train every head, believe the result.

`cli/` is the command line. Each command calls the packages below (`evaluate`, `heads`, `extract`
and `cache`), which never import this one.
"""
