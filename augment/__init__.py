"""Augmentation as functions of (example, key): the same key always gives the same image."""

from augment.layers import Operation as Operation
from augment.policies import AugmentS1 as AugmentS1
from augment.policies import AugmentS2 as AugmentS2
from augment.policies import AugmentS3 as AugmentS3
from augment.policies import AugmentS4 as AugmentS4
from augment.policies import AutoAugment as AutoAugment
from augment.policies import LargeScaleJitter as LargeScaleJitter
from augment.policies import Policy as Policy
from augment.policies import RandAugment as RandAugment
from augment.policies import policy as policy
