"""The sections of the report: what each shows, made from files; the templates draw it."""
