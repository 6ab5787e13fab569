"""Latent diffusion of drug-induced gene expression, trained and served on Ray."""

__version__ = "0.1.0"
