"""The train step, optimizer, distribution, recovery and summaries."""
