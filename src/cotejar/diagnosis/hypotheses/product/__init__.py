"""What the families of products share: samples of rows, roundings, a weight read otherwise."""
