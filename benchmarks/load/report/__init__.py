"""From recorded requests to figures, limits, tables and plots."""
