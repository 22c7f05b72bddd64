"""Long work: what is too much to wait for, done by whoever has hands free."""
