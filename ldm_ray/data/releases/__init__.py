"""Releases of L1000 profiles, in the layouts that people have them in."""
