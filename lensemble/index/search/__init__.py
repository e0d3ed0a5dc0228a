"""Stage 3: vectors become their nearest items."""
