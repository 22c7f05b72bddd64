"""The HTTP door: bodies in, facades in between, answers out."""
