"""Trivial and linear baselines, clouds and ceilings that every table carries."""
