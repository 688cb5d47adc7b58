"""The rules: a small class each, that documents itself with why, bad and good."""
