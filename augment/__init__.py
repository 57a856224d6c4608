"""Augmentation as functions of (example, key): the same key always gives the same picture."""

from augment.policies import policy as policy
