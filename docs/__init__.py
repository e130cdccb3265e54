"""The documentation; the pages that are lists are drawn from the tables in code by `docs.generate`."""
