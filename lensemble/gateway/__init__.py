"""The gateway: an HTTP server in OpenAI's request shape, in front of Triton.

It runs as a process of its own and holds neither a model nor any state, so several gateways can
share one Triton server, also from other machines. A request passes through these packages and
modules, in this order:

    access/         request id, API key, scope, rate limit, size of the body: before it is read
    routes/         the handlers, one module for each group of paths: a request is answered here
    inputs/         JSON -> items; data URLs and pictures on other hosts -> bytes
    backends        items -> calls of Triton -> results in the order of the items
    served_models   which embedders Triton serves, read from its metrics
    chat_server     requests to the chat server, for chat and RAG; `event_stream` checks its streams
    disconnects     cancels the work for a caller who has closed the connection
    responses       JSON bodies of successful responses
    errors          errors as JSON bodies; `error_handlers` chooses their HTTP status
    observability/  access log, metrics and OpenTelemetry spans of each request

`app` assembles them. `settings` lists the environment variables. `python -m lensemble.gateway`
runs the gateway in the foreground, and `process` starts that as a child process.
"""
