"""Sends requests to a server over gRPC and HTTP, with threads and with asyncio."""
