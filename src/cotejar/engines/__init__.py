"""Things that run a model. Engines never import each other."""
