"""What every model must beat."""
