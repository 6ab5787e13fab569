"""The diffusion process in closed form. Knows no network."""
