"""Policies: each an engine that holds another engine. `stack.py` writes their order once."""
