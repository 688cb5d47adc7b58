"""Known ways to be wrong, injected on purpose."""
