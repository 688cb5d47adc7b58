"""Two traces in, one judged comparison out: preconditions, pairing, metrics, gates."""
