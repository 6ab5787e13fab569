"""The report of an evaluation: tables, pictures, the page."""
