"""Predictions from a bundle, for single queries or in bulk."""
