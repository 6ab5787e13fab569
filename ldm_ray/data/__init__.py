"""From an L1000 release to the paired dataset. Knows no torch."""
