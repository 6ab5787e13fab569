"""Molecules: SMILES, fingerprints and embedding tables."""
