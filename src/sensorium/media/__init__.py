"""What comes in: where pictures are, how they are fetched, checked and decoded."""
