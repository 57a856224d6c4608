"""Teacher, pseudo labels, student."""
