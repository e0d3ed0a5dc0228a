"""Access log, metrics and OpenTelemetry spans of the gateway's requests."""
