"""From queries to predictions with a bundle, one by one or in bulk."""
