"""How often somebody may be wrong: a limit for each address, and one for all of them together."""

import ipaddress
from collections import OrderedDict

from rollout.errors import TooMany
from xds.limits import Rate

ONE = Rate(per_s=1 / 12, burst=5)
ALL = Rate(per_s=1.0, burst=50)
ADDRESSES_LIMIT = 10_000  # whose failures are kept; who is forgotten may begin anew, within the limit of all


class Throttle:
    """Counts failures: after a burst of them there must be some time before the next. It holds no clock."""

    def __init__(self) -> None:
        self._all_to_s = float("-inf")  # the time up to which what was wrong has used the rate
        self._to_s: OrderedDict[str, float] = OrderedDict()  # the newest last

    def check(self, address: str, now_s: float) -> None:
        """Raise TooMany when an address has been wrong too often to be heard now."""
        _check(ONE, self._to_s.get(_host(address), float("-inf")), now_s)

    def check_all(self, now_s: float) -> None:
        """Raise TooMany when all together have been wrong too often."""
        _check(ALL, self._all_to_s, now_s)

    def failed(self, address: str, now_s: float) -> None:
        """Note that an address was wrong."""
        host = _host(address)
        self._to_s[host] = _used(ONE, self._to_s.get(host, float("-inf")), now_s)
        self._to_s.move_to_end(host)
        self._all_to_s = _used(ALL, self._all_to_s, now_s)
        if len(self._to_s) > ADDRESSES_LIMIT:
            self._to_s.popitem(last=False)


def _used(rate: Rate, to_s: float, now_s: float) -> float:
    return max(to_s, now_s) + 1 / rate.per_s


def _check(rate: Rate, to_s: float, now_s: float) -> None:
    wait_s = to_s - now_s - (rate.burst - 1) / rate.per_s
    if wait_s > 0:
        raise TooMany("too many wrong tokens; wait a little, and look at what you send", wait_s)


def _host(address: str) -> str:
    """Return what counts as one: of IPv6 a network, for one host has all the addresses of it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return address
