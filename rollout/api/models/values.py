"""Values that many models have."""

from typing import Annotated

from pydantic import WithJsonSchema

Instant = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time as RFC 3339 has it, in UTC."""
