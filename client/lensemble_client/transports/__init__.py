"""Ways to reach Triton: gRPC and HTTP, for threads and for asyncio."""
