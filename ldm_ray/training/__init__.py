"""Loss modules, optimisation state and model bundles."""
