"""What the engine remembers of thousands of services: each is looked at without the others."""

import time

from rollout.books import Books
from rollout.drain import Drain
from rollout.record import Backend, Service, Version
from rollout.spec import parse_endpoint

MANY = 3_000
ENDPOINTS = (parse_endpoint("10.0.0.1:80"), parse_endpoint("10.0.0.2:80"))


def test_to_look_at_every_service_takes_as_long_as_there_are_services() -> None:
    """A scrape of /metrics does so: at 2,000 services that stood in the way of everything for two seconds."""
    books = Books(lambda _: ())
    names = [f"service-{number}" for number in range(MANY)]
    for name in names:
        books.settle(Service(name, "v1"), Version(name, "v1", ENDPOINTS))
        books.put_backend(Backend(name, "v1", "10.0.0.1:80", Drain(0.0), removed=True))
    began_s = time.process_time()
    found = [(books.versions(name), books.addresses(name, "v1"), books.past_versions(name)) for name in names]
    assert time.process_time() - began_s < 1  # it takes 30 ms; 9 s when each looks at all the others
    assert found[0] == ((Version(names[0], "v1", ENDPOINTS),), ("10.0.0.2:80",), ())


def test_what_is_forgotten_is_forgotten_of_one_service_only() -> None:
    books = Books(lambda _: ("10.0.0.1:80",))
    for name in ("cart", "shop"):
        books.settle(Service(name, "v1"), Version(name, "v1", ENDPOINTS))
        books.put_backend(Backend(name, "v1", "10.0.0.1:80", Drain(0.0)))
    books.adopt(Version("cart", "v2", ENDPOINTS), ())
    assert [each.name for each in books.versions("cart")] == ["v2"]
    assert [each.name for each in books.versions("shop")] == ["v1"]
    assert (books.backends("cart"), [each.service for each in books.draining()]) == ((), ["shop"])
    assert books.touched() == {"cart", "shop"}
