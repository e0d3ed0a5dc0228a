"""Turns recorded requests into figures, and checks limits, writes tables, plots and files."""
