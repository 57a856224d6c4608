"""Sources of examples and the input pipeline."""
