"""Stage 2: features become vectors; a micro-batch is one packed row, without padding."""
