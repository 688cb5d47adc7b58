"""`pv`: a module a verb."""
