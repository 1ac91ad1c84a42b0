"""Hooks as they are written, documented and shown; and what a `provision` hook may say."""

import hashlib
import hmac
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rollout.errors import InvalidSpec
from rollout.hooks import Hook, HookKind
from rollout.message import signature
from rollout.provision import endpoints_in
from rollout.record import dump_strategy, load_strategy
from rollout.spec import Strategy, parse_deployment, parse_strategy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hooks.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
URL = "https://me:hush@chat.corp:8443/services/hush?key=hush"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_strategies_in_the_docs_can_be_used(block: str) -> None:
    assert parse_strategy(block).hooks


def test_every_kind_and_setting_is_documented() -> None:
    for kind in HookKind:
        assert f"| `{kind}` |" in PAGE, kind
        assert f"`{kind}`" in REFERENCE, kind
    for setting in Hook.model_fields:
        assert f"| `{setting}` |" in REFERENCE, setting


def test_the_signature_of_the_docs_is_the_one_that_is_sent() -> None:
    (block,) = blocks("python")
    known: dict[str, Callable[[bytes, str, bytes, float], bool]] = {}
    exec(block, {"hmac": hmac, "hashlib": hashlib}, known)  # noqa: S102 - our own page
    is_genuine = known["is_genuine"]
    header = signature(b"key", 1_000, b"{}")
    assert is_genuine(b"key", header, b"{}", 1_100.0)
    assert not is_genuine(b"key", header, b"{} ", 1_100.0)
    assert not is_genuine(b"other", header, b"{}", 1_100.0)
    assert not is_genuine(b"key", header, b"{}", 9_000.0)
    assert not is_genuine(b"key", header.replace("1000", "9000"), b"{}", 9_000.0)


def test_what_may_be_secret_is_saved_and_never_shown() -> None:
    hook = {"at": "event", "url": URL, "headers": {"Authorization": "Bearer hush"}}
    strategy = Strategy.model_validate({"hooks": [hook]})
    assert load_strategy(dump_strategy(strategy)) == strategy
    shown = strategy.model_dump_json(by_alias=True)
    assert "hush" not in shown + repr(strategy)
    (again,) = load_strategy(shown).hooks
    assert (again.url, dict(again.headers)) == ("https://chat.corp:8443/[redacted]", {"Authorization": "[redacted]"})
    assert (again.label, again.host) == ("chat.corp:8443", "chat.corp:8443")


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ({"url": "http://me:hush@h:x/"}, "url: is no address to call; write http://HOST:PORT/PATH"),
        ({"url": "ftp://hush/"}, "url: is no address to call"),
        ({"url": "http://h/", "timeout": "hush-1"}, "timeout: 'hush-1' is no duration"),
        ({"url": "http://h/", "retries": "hush"}, "retries: must be a valid integer"),
        ({"url": "http://h/", "retries": 11}, "retries: must be less than or equal to 10"),
        ({"url": "http://h/", "headers": {"a b": "hush"}}, "headers: 'a b' is no header"),
        ({"url": "http://h/", "headers": ["hush"]}, "headers: must be a mapping"),
        ({"url": "http://h/", "secret": "hush"}, "secret: name an environment variable of the server"),
        ({"url": "http://h/", "command": "x"}, "hooks[0]: give one of url, command"),
        ({}, "hooks[0]: give one of url, command"),
        ({"command": "../x"}, "command: name a program in the folder of --commands"),
        ({"command": ["x", "a\0b"]}, "command: has a zero byte in it"),
        ({"command": "x", "secret": "ROLLOUT_HOOK_A"}, "headers and secret are of a webhook"),
        ({"command": "x", "reversible": False}, "a hook at rollback cannot be irreversible"),
    ],
)
def test_a_wrong_hook_is_refused_with_its_place(hook: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_deployment({"service": "s", "version": "v", "strategy": {"hooks": [{"at": "rollback", **hook}]}})
    assert told in str(caught.value)
    assert str(caught.value).startswith("strategy.hooks[0]")
    assert "me:hush" not in str(caught.value)


def test_two_hooks_of_a_kind_need_two_names() -> None:
    hooks = [{"at": "event", "url": "http://h/a"}, {"at": "event", "url": "http://h/b"}]
    with pytest.raises(InvalidSpec, match="has two event hooks called 'h'; give one of them another `name`"):
        parse_strategy(f"hooks: {hooks}")
    parse_strategy(f"hooks: {[hooks[0], {**hooks[1], 'name': 'b'}]}")


# --- provision ---


def test_a_deployment_needs_endpoints_unless_a_hook_says_them() -> None:
    wish = {"service": "checkout", "version": "v2"}
    with pytest.raises(InvalidSpec, match=r"^endpoints: is empty; give at least one as HOST:PORT, or a `provision`"):
        parse_deployment(wish)
    provided = {**wish, "strategy": {"hooks": [{"at": "provision", "command": "up"}]}}
    assert parse_deployment(provided).endpoints == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"endpoints": ["10.0.0.5:8080@eu/eu-1", "[fd00::1]:80"]}', ["10.0.0.5:8080@eu/eu-1", "[fd00::1]:80"]),
        ('starting\n{"endpoints": ["10.0.0.5:80"]}\n', ["10.0.0.5:80"]),
        ('{\n "endpoints": [\n "10.0.0.5:80"\n ]\n}', ["10.0.0.5:80"]),
        ("", []),
        ("ok", []),
        ("[" * 100_000, []),
        ('{"ready": true}', []),
        ("null", []),
    ],
)
def test_endpoints_are_found_in_an_answer(text: str, found: list[str]) -> None:
    assert [str(each) for each in endpoints_in(text)] == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"endpoints": []}', "its `endpoints` are empty"),
        ('{"endpoints": {"a": 1}}', "its `endpoints` are no list of texts"),
        ('{"endpoints": [1]}', "its `endpoints` are no list of texts"),
        ('{"endpoints": ["localhost:80"]}', "'localhost' is no IP address"),
        ('{"endpoints": ["10.0.0.5:80", "10.0.0.5:80"]}', "10.0.0.5:80 stands twice"),
        ('{"endpoints": %s}' % (["10.0.0.1:1"] * 10_001), "it has 10001 `endpoints`; 10000 are the most"),
    ],
)
def test_wrong_endpoints_are_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        endpoints_in(text.replace("'", '"'))
    assert told in str(caught.value)
