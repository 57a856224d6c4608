"""Losses as plain functions of tensors: no flags, no models, nothing from `official`."""
