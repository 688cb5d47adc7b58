"""The harnesses of our own contracts: a module a function of production."""
