"""The same load as in the tests of single Envoys."""

from tests.envoy.conftest import under_load

__all__ = ("under_load",)
