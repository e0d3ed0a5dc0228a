"""When a request is encoded, when it is refused, and when it is dropped."""
