"""The diffusion process in closed form, independent of any network."""
