"""One task over very many inputs, which goes on after any crash: `sensorium batch`."""
