"""How much a source of backends may answer."""

MOST_BYTES = 32 * 1024 * 1024  # ten thousand instances of Consul with their checks are some 20 MB
