"""Drug sensitivity (Table 2)."""
