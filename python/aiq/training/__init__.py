"""Training of the fake-quantised network of a plan."""
