"""`lensemble corpus`: embeds a table of pictures and texts, indexes it, and searches it."""
