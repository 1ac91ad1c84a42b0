"""Traces: each rollout as spans, for OpenTelemetry."""
