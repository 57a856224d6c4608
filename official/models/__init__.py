"""Backbones, feature pyramids, heads and box decoding."""
