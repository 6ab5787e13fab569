"""What an evaluation writes: tables, pictures, the page."""
