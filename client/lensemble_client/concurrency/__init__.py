"""Several requests at a time: with threads for `Client`, with tasks for `AsyncClient`."""
