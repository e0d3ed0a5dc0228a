"""Request bodies: their schemas, and how they become items."""
