"""Products: the weight, its order, its bias, and what it is multiplied with."""
