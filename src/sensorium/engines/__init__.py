"""What answers: one file for each kind of engine, with the cards of the models it knows."""
