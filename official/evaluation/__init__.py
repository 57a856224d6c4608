"""Metrics and drawings."""
