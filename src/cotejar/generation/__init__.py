"""Continue a text: samplers and the token loop, over any engine that generates."""
