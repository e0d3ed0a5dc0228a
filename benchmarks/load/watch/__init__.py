"""What is observed of the server during a run."""
