"""The sections of the report: each makes from files what its template shows."""
