"""How well a model predicts a text, and how far another's predictions lie from it."""
