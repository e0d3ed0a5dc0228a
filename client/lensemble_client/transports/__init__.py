"""The protocols over which clients reach a server: gRPC and HTTP, with threads and with asyncio."""
