"""Augmentation as functions of (example, key): the same key always gives the same picture."""

from augment.layers import Operation as Operation
from augment.policies import Policy as Policy
from augment.policies import policy as policy
