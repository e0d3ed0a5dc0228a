"""Which request is computed next, which is refused, and when a deadline has passed."""
