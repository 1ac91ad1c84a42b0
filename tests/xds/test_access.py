"""Who may be which node and have which secrets."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xds.client import Wire, served, shop
from xds import proto
from xds.access import Access, Anyone, Client, Current, Grant, Rules, dns_name, parse, spiffe_id
from xds.cache import Cache
from xds.errors import Forbidden, InvalidConfig
from xds.node import Node, Peer
from xds.redaction import without_values
from xds.resources import SECRETS, resource
from xds.session import ControlPlane, Session

RULES = """
clients:
- identity: spiffe://corp/edge/*
  node_ids: ["{*}", "{*}-canary"]
  node_clusters: [edge]
  secrets: ["edge-*", tls]
- identity: "*.Gate.corp"
  node_ids: ["gate-*"]
  node_clusters: ["*"]
- identity: spiffe://corp/edge/e1
  node_ids: [e1]
  node_clusters: [edge]
  secrets: [only-e1]
"""


def peer(*identities: str) -> Peer:
    return Peer("ipv4:10.0.0.1:4711", frozenset(identities))


def node(id_: str, cluster: str = "edge") -> Node:
    return Node(id_, cluster, "", "", "", {})


def admitted(access: Access, who: Peer, as_node: Node) -> tuple[str, ...] | None:
    """Return the secrets that a client is granted, None when it is not let in."""
    try:
        access.connect(who)
        return access.admit(who, as_node).secrets()
    except Forbidden:
        return None


def test_example_in_the_docs_says_what_its_text_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    block = next(each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if each.startswith("clients:"))
    rules = parse("authz.yaml", block)
    assert admitted(rules, peer("spiffe://corp/edge/edge-1"), node("edge-1")) == ("edge-*",)
    assert admitted(rules, peer("spiffe://corp/edge/edge-1"), node("edge-2")) is None
    assert admitted(rules, peer("a.gate.corp"), node("gate-1", "gates")) == ()


@pytest.mark.parametrize(
    ("identity", "as_node", "secrets"),
    [
        ("spiffe://corp/edge/e2", node("e2"), ("edge-*", "tls")),
        ("spiffe://corp/edge/e2", node("e2-canary"), ("edge-*", "tls")),
        ("spiffe://corp/edge/e1", node("e1"), ("edge-*", "only-e1", "tls")),
        ("spiffe://corp/edge/e2", node("e1"), None),
        ("spiffe://corp/edge/e2", node("e2", "gate"), None),
        ("spiffe://corp/edge/e2", node("e2-canary2"), None),
        ("spiffe://corp/edge/", node(""), None),
        ("spiffe://corp/edge/a/b", node("a/b"), None),
        ("spiffe://corp/edges/e2", node("e2"), None),
        ("spiffe://corp.evil/edge/e2", node("e2"), None),
        ("a.gate.corp", node("gate-7", "anything"), ()),
        ("a.gate.corp", node("gate-7", ""), ()),
        ("a.gate.corp", node("edge-7"), None),
        ("a.b.gate.corp", node("gate-7"), None),
        ("gate.corp", node("gate-7"), None),
        ("axgate.corp", node("gate-7"), None),
    ],
)
def test_identity_may_be_what_its_entries_say(identity: str, as_node: Node, secrets: tuple[str, ...] | None) -> None:
    assert admitted(parse("authz.yaml", RULES), peer(identity), as_node) == secrets


def test_entries_of_all_identities_of_a_certificate_count_each_for_itself() -> None:
    rules = parse("authz.yaml", RULES)
    both = peer("spiffe://corp/edge/e2", "a.gate.corp")
    assert admitted(rules, both, node("e2")) == ("edge-*", "tls")
    assert admitted(rules, both, node("gate-1", "x")) == ()
    assert admitted(rules, both, node("e2", "x")) is None  # the node id of one entry with the cluster of another


@pytest.mark.parametrize(
    ("who", "text"),
    [
        (Peer("ipv4:10.0.0.1:1"), "a client without a certificate is in no entry"),
        (peer(), "a certificate without a SPIFFE ID and without a DNS name is in no entry"),
        (peer("spiffe://corp/other"), "the identity 'spiffe://corp/other' is in no entry of the --xds-authz file"),
        (peer("*"), "is in no entry"),
    ],
)
def test_peer_that_no_entry_fits_is_refused_before_it_says_anything(who: Peer, text: str) -> None:
    with pytest.raises(Forbidden, match=text):
        parse("authz.yaml", RULES).connect(who)


def test_refusal_names_identity_node_and_cluster() -> None:
    text = "the identity 'spiffe://corp/edge/e2' may not be node 'e1' of the cluster 'edge'"
    with pytest.raises(Forbidden, match=text):
        parse("authz.yaml", RULES).admit(peer("spiffe://corp/edge/e2"), node("e1"))


def test_star_alone_is_every_identity_and_binds_the_node_id_to_it() -> None:
    rules = Rules((Client("*", ("{*}",), ("*",)),))
    assert admitted(rules, peer("spiffe://corp/edge/e1"), node("spiffe://corp/edge/e1")) == ()
    assert admitted(rules, peer("e1.corp"), node("e1.corp")) == ()
    assert admitted(rules, peer("e1.corp"), node("e2.corp")) is None
    assert admitted(rules, peer(), node("e1.corp")) is None


def test_star_in_an_identity_cannot_widen_a_node_id() -> None:
    """Nobody gets such an identity past the edge; here it would make `{*}` every node."""
    rules = Rules((Client("spiffe://corp/*", ("{*}",), ("*",)),))
    assert admitted(rules, peer("spiffe://corp/*"), node("e1")) is None


def test_without_rules_everybody_is_let_in_and_nobody_has_a_secret() -> None:
    for who in (Peer("ipv4:10.0.0.1:1"), peer(), peer("spiffe://corp/edge/e1")):
        assert admitted(Anyone(), who, node("e1")) == ()
    with pytest.raises(Forbidden, match="no access to the secrets 'tls'"):
        Anyone().admit(peer("e1.corp"), node("e1")).check_secrets({"tls"})


def test_grant_names_the_secrets_that_it_refuses() -> None:
    grant = Grant(lambda: ("edge-*", "tls"))
    grant.check_secrets(())
    grant.check_secrets({"edge-", "edge-a", "tls"})
    with pytest.raises(Forbidden, match="the secrets '', '\\*', 'edge', 'tls2'; name them"):
        grant.check_secrets({"tls", "tls2", "edge", "", "*"})
    with pytest.raises(Forbidden, match="'n4' and 2 more"):
        grant.check_secrets(f"n{number}" for number in range(7))


@pytest.mark.parametrize(
    ("pattern", "fits", "misses"),
    [
        ("a", ["a"], ["", "aa", "A"]),
        ("*", ["", "a", "a/b.c\n"], []),
        ("a*", ["a", "ab"], ["", "ba"]),
        ("*a", ["a", "ba"], ["ab"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("*a*b*", ["ab", "xaxbx"], ["ba", "a"]),
        ("**", ["", "x"], []),
        ("a.c", ["a.c"], ["abc"]),
        ("[a]?", ["[a]?"], ["a", "ab"]),
    ],
)
def test_pattern_fits(pattern: str, fits: list[str], misses: list[str]) -> None:
    grant = Grant(lambda: (pattern,))
    grant.check_secrets(fits)
    for each in misses:
        with pytest.raises(Forbidden):
            grant.check_secrets([each])


@given(st.lists(st.text("ab"), min_size=1, max_size=5), st.lists(st.text("ab"), max_size=5))
def test_pattern_fits_whatever_stands_for_its_stars(parts: list[str], fillings: list[str]) -> None:
    fillings = (fillings + [""] * len(parts))[: len(parts)]
    name = "".join(part + filling for part, filling in zip(parts, [*fillings[:-1], ""], strict=True))
    Grant(lambda: ("*".join(parts),)).check_secrets([name])


def test_hostile_name_costs_no_more_than_its_length() -> None:
    """With backtracking this would take for ever."""
    with pytest.raises(Forbidden):
        Grant(lambda: ("a*a*a*a*a*a*a*a*b",)).check_secrets(["a" * 1_000_000])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "clients: must be a list of clients"),
        ("clients: []", "an empty one would lock every client out"),
        ("clients: {}", "clients: must be a list of clients"),
        ("[]", "must be a mapping"),
        ("clients: [\n", "authz.yaml:2"),
        ("client: []", "authz.yaml: client: is no field; the only one is `clients`"),
        (
            "clients: [edge]",
            "authz.yaml: clients[0]: must be a mapping with identity, node_ids, node_clusters, secrets",
        ),
        ("clients: [{identity: a, node_id: [b]}]", "clients[0].node_id: is no field; there are identity, node_ids"),
        ("clients: [{node_ids: [b], node_clusters: [c]}]", "clients[0].identity: is missing; write a SPIFFE ID such"),
        (
            "clients: [{identity: a, node_clusters: [c]}]",
            'clients[0].node_ids: is missing; list what is allowed, ["*"]',
        ),
        ("clients: [{identity: a, node_ids: [], node_clusters: [c]}]", "clients[0].node_ids: is missing"),
        ("clients: [{identity: a, node_ids: [b]}]", "clients[0].node_clusters: is missing"),
        ("clients: [{identity: a, node_ids: b, node_clusters: [c]}]", "clients[0].node_ids: must be a list of names"),
        (
            "clients: [{identity: a, node_ids: [1], node_clusters: [c]}]",
            "node_ids[0]: must be a name or a pattern; put",
        ),
        ("clients: [{identity: a, node_ids: [b], node_clusters: [c], secrets: ['']}]", "secrets[0]: must be a name"),
        (
            "clients: [{identity: a, node_ids: ['{*}'], node_clusters: [c]}]",
            "but the identity has 0 of them; write one",
        ),
        ("clients: [{identity: 'a*.*', node_ids: ['{*}'], node_clusters: [c]}]", "identity has 2 of them; write one"),
        (
            "clients: [{identity: '*', node_ids: [b], node_clusters: ['{*}']}]",
            "{*}, which stands for something in node",
        ),
        ("clients: [{identity: 'spiffe://Corp/a', node_ids: [b], node_clusters: [c]}]", "fits no identity; write a"),
        ("clients: [{identity: 'spiffe://corp/a/../b', node_ids: [b], node_clusters: [c]}]", "fits no identity"),
        ("clients: [{identity: 'spiffe://corp/a/', node_ids: [b], node_clusters: [c]}]", "fits no identity"),
        ("clients: [{identity: 'http://corp/*', node_ids: [b], node_clusters: [c]}]", "fits no identity"),
        ("clients: [{identity: 'a b', node_ids: [b], node_clusters: [c]}]", "'a b' fits no identity"),
        ("clients: [{identity: 'ann@corp', node_ids: [b], node_clusters: [c]}]", "'ann@corp' fits no identity"),
    ],
)
def test_wrong_rules_name_file_entry_and_remedy(text: str, problem: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse("authz.yaml", text)
    assert problem in str(caught.value)
    assert all(each.where.startswith("authz.yaml") for each in caught.value.problems)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse("authz.yaml", "clients: [{identity: a, node_ids: b}, {idntity: c}]\nx: 1")
    assert len(caught.value.problems) >= 6


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("spiffe://corp", True),
        ("spiffe://corp/edge/A-1_.x", True),
        ("spiffe://corp/a/../admin", False),
        ("spiffe://corp/./a", False),
        ("spiffe://corp/", False),
        ("spiffe://corp//a", False),
        ("spiffe://", False),
        ("spiffe://Corp/a", False),
        ("SPIFFE://corp/a", False),
        ("spiffe://corp/a?x", False),
        ("spiffe://corp/a\n", False),
        ("spiffe://corp/a%2fb", False),
        ("https://corp/a", False),
        ("a.corp", False),
    ],
)
def test_spiffe_id_is_well_formed(text: str, good: bool) -> None:
    assert spiffe_id(text) == (text if good else None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a", "a"),
        ("Edge-1.Corp", "edge-1.corp"),
        ("*.corp", None),
        ("a..b", None),
        (".a", None),
        ("a.", None),
        ("-a", None),
        ("a\n", None),
        ("spiffe://corp/a", None),
        ("a/b", None),
        ("bücher.example", None),
        ("a" * 254, None),
        ("", None),
    ],
)
def test_dns_name_is_well_formed(text: str, name: str | None) -> None:
    assert dns_name(text) == name


@given(st.text())
def test_dns_name_is_never_a_spiffe_id(text: str) -> None:
    found = dns_name(text)
    assert found is None or spiffe_id(found) is None


def test_access_in_force_is_the_newest_for_what_was_granted_before_too() -> None:
    current, who = Current(parse("authz.yaml", RULES)), peer("spiffe://corp/edge/e2")
    grant = current.admit(who, node("e2"))
    grant.check_secrets({"edge-a"})
    current.access = parse("authz.yaml", RULES.replace("edge-*", "new-*"))
    grant.check_secrets({"new-a"})
    with pytest.raises(Forbidden, match="no access to the secrets 'edge-a'"):
        grant.check_secrets({"edge-a"})
    current.access = parse("authz.yaml", RULES.replace("corp/edge/*", "corp/gate/*"))
    with pytest.raises(Forbidden, match="may not be node 'e2'"):
        grant.check_secrets({"new-a"})
    with pytest.raises(Forbidden, match="is in no entry"):
        current.connect(who)


def secret(name: str) -> Any:
    words = {"name": name, "generic_secret": {"secret": {"inline_string": "hidden"}}}
    return resource(SECRETS, proto.parse(SECRETS.message, words))


@pytest.mark.parametrize("protocol", ["sotw", "delta"])
def test_session_gives_only_the_secrets_of_its_grant(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a"), secret("edge-a"), secret("gate")))
    rules = parse("authz.yaml", RULES)
    wire = Wire(cache, protocol, "e2")
    who = peer("spiffe://corp/edge/e2")
    wire.session = Session(ControlPlane(cache, access=rules), protocol, who, lambda: None)
    wire.ask(SECRETS, "edge-a")
    assert wire.settle() == ["secrets edge-a"]
    with pytest.raises(Forbidden, match="no access to the secrets 'gate'"):
        wire.ask(SECRETS, "edge-a", "gate")
    assert wire.replies() == []


@pytest.mark.parametrize("protocol", ["sotw", "delta"])
@pytest.mark.parametrize("names", [(), ("*",)])
def test_no_wildcard_gives_all_secrets(protocol: str, names: tuple[str, ...]) -> None:
    cache = Cache()
    cache.publish(served(*shop("a"), secret("edge-a"), secret("gate")))
    wire = Wire(cache, protocol, "e2")
    who = peer("spiffe://corp/edge/e2")
    wire.session = Session(ControlPlane(cache, access=parse("a.yaml", RULES)), protocol, who, lambda: None)
    if names:
        with pytest.raises(Forbidden):
            wire.ask(SECRETS, *names)
    else:
        wire.ask(SECRETS)
    assert wire.replies() == []


REFUSAL = 'goo.gle/debugonly \nname: "tls"\ngeneric_secret { secret { inline_string: "hid\\"den" } }\n: is bad'


@pytest.mark.parametrize("protocol", ["sotw", "delta"])
def test_refused_secret_is_not_quoted_by_its_nack(protocol: str) -> None:
    """Envoy prints the whole secret when it breaks a rule of a field."""
    cache = Cache()
    cache.publish(served(*shop("a"), secret("tls")))
    wire = Wire(cache, protocol, "e2")
    plane = ControlPlane(cache, access=parse("a.yaml", RULES))
    wire.session = Session(plane, protocol, peer("spiffe://corp/edge/e2"), lambda: None)
    wire.ask(SECRETS, "tls")
    (reply,) = wire.replies()
    wire.nack(reply, REFUSAL)
    rejection = wire.session.status().types[SECRETS].rejection
    assert rejection is not None
    assert "den" not in rejection.text
    assert rejection.text.endswith(": is bad")


@given(st.text(), st.text())
def test_text_without_values_holds_no_value(before: str, value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    before = before.replace('"', "")
    whole = f'{before} inline_string: "{quoted}"'
    assert without_values(f"{whole} : why") == f'{before} inline_string: "..." : why'
    for end in range(len(before) + 17, len(whole)):
        assert without_values(whole[:end]) == f'{before} inline_string: "..."'
