"""What shall be, as documents say it: strategies and services. Read, compared with what is, and written back. Pure."""
