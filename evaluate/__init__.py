"""Heads → evidence.

In: trained heads, and test images.
Out: `results.csv`, predictions, the report, exported models.
Start with `classifier` (backbone and head as one model), `evaluation` (the run), `metrics`,
`results` and `leaderboard` (the only ranking). Extensions: `audit/`, `statistics/`, `uncertainty/`,
`benchmark/`, `baseline/` (networks trained as a whole), `explanation/`, `export/`, `report/`.
"""
