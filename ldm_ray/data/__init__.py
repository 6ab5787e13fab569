"""From an L1000 release to the paired dataset. Does not import torch."""
