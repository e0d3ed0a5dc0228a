"""The gateway: an HTTP API in OpenAI's shape in front of Triton, for callers without our client.

The modules are the way of a request:

    guard       request id, key, limits, access log: before a body is read
    schemas     JSON -> typed request, unknown fields refused by name
    inputs      OpenAI's and vLLM's ways to say it -> items; data URLs, pictures from afar
    embeddings  items -> vectors              search  items -> hits
    items       writes and reads of the index
    chat, rag   turns that go on to a chat server; hits as its sources
    models      what serves: /health, /v1/models, /metrics

`app` puts them together, `process` starts it beside a server. It holds no model: it can run on
another machine than Triton, and in several processes.
"""
