"""HTML pages, pictures and tables for reports."""
