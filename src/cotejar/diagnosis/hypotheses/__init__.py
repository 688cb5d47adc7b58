"""Known ways to be wrong, a module a family; each makes alternatives of one operation."""
