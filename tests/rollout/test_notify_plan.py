"""The file of notifications: what is wrong with it, whom it tells of what, and in which words."""

from pathlib import Path

import pytest

from rollout.happenings import EventKind, Severity
from rollout.notify.loading import load
from rollout.notify.pace import Budget, backoff_s
from rollout.notify.plan import Plan, parse, unwise
from rollout.notify.post import check, concealed, shown
from rollout.notify.words import VALUES, Words, fault_of
from tests.rollout.commandline import rollout
from tests.rollout.told import event
from xds.errors import InvalidConfig

WRONG = """
targets:
  oncall: { url_env: ONCALL_URL, nope: 1 }
  team: "slack://SECRETTOKEN"
  both: { url: "json://SECRETHOST", url_env: A }
rules:
- { tell: [oncal], services: ["shop-*"], events: [rollout.rolled_back, proxy.nak], severity: warn }
templates: { rollout.rolled_back: { title: "$servce", body: "$" }, rollout.over: {} }
limit: { per_minute: 0, timeout: 5 }
link: "https://$host"
"""
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


def faults(text: str) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as refused:
        parse("notify.yaml", text)
    return {each.where.partition(": ")[2]: each.what for each in refused.value.problems}


def test_every_fault_is_told_at_once_with_its_place_and_no_secret() -> None:
    found = faults(WRONG)
    assert set(found) == {
        "targets.oncall.nope",
        "targets.team",
        "targets.both",
        "rules[0].severity",
        "rules[0].tell[0]",
        "rules[0].events[1]",
        "templates.rollout.rolled_back.title",
        "templates.rollout.rolled_back.body",
        "templates.rollout.over",
        "limit.per_minute",
        "limit.timeout",
        "link",
    }
    assert "there are oncall, team, both" in found["rules[0].tell[0]"]
    assert "url_env" in found["targets.both"]
    assert "SECRET" not in str(found)


@pytest.mark.parametrize(
    "text", ["- 1", "targets: [", "targets: {}\ntargets: {}", "", "targets: 3", "rules: [1, {tell: 2}]"]
)
def test_what_is_no_file_of_notifications_is_refused(text: str) -> None:
    assert faults(text)


def test_rules_choose_by_service_kind_and_severity() -> None:
    plan = parse(
        "notify.yaml",
        "targets: {a: {url: 'json://h'}}\n"
        "rules: [{tell: [a], services: ['check*'], events: ['rollout.*', proxy.nack]}]",
    )
    assert plan.tells("a", event())
    assert not plan.tells("a", event(service="cart"))
    assert not plan.tells("a", event(severity=Severity.INFO))
    assert not plan.tells("a", event(kind=EventKind.OPERATION))
    assert plan.tells("a", event(kind=EventKind.PROXY_NACK, service="", rollout=None, detail={}))
    assert not plan.tells("b", event())


def test_a_target_without_a_rule_is_unwise() -> None:
    assert unwise(parse("n", "targets: {a: {url: 'json://h'}}")) == (
        "targets.a: no rule tells it of anything; name it in a rule's `tell:`",
    )


def test_a_users_words_may_name_what_is_known() -> None:
    own = "{title: '$service $candidate $$', body: '$reason at $weight, $link'}"
    text = f"templates: {{rollout.rolled_back: {own}}}\nlink: https://p/$service"
    message = parse("n", text).words(None).message(event())
    assert (message.title, message.body) == ("checkout v2 $", "errors 9 % against 0.1 % at 10 %, https://p/checkout")
    assert all(fault_of(f"${{{name}}}") is None for name in VALUES)


@pytest.mark.parametrize("kind", EventKind)
def test_every_event_has_words(kind: EventKind) -> None:
    message = Words().message(event(kind=kind))
    assert message.title not in ("", kind)
    assert "$" not in message.title + message.body
    bare = Words().message(event(kind=kind, service="", rollout=None, detail={}))
    assert "$" not in bare.title + bare.body


def test_a_budget_is_spent_and_comes_back() -> None:
    budget = Budget()
    assert budget.left(10, 100.0) == 10
    for _ in range(10):
        budget.take()
    assert (budget.left(10, 100.0), budget.wait_s(10)) == (0, 6.0)
    assert budget.left(10, 106.0) == 1
    assert budget.left(10, 1000.0) == 10
    assert [backoff_s(attempt) for attempt in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 60.0]


def test_addresses_are_shown_without_secrets() -> None:
    assert shown(SLACK) == "slack://[redacted]"
    assert shown("jsons://ann:pass@hooks.example.com:8443/x/y?token=z") == "jsons://hooks.example.com:8443/[redacted]"
    assert shown("json://ann:S3C/RET@hooks.example.com/x") == shown("json://ann:S3C?RET@h") == "json://[redacted]"
    assert shown("what is this") == "[redacted]"
    said = concealed("Failed for T1JJ3T3L2 by TIiajkdnlazkcOXrIdevi7FQ", SLACK)
    assert said == "Failed for [redacted] by [redacted]"
    assert (
        concealed("to hooks.example.com: no", "json://u:passw@hooks.example.com/secret") == "to hooks.example.com: no"
    )
    check(SLACK)


def test_addresses_come_from_the_environment_and_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify.yaml"
    path.write_text(
        "targets: {a: {url_env: A_URL}, b: {url_file: b.url}, c: {url: 'json://h?verify=no'}, d: {url: 'nope://SECRET'}}"
    )
    with pytest.raises(InvalidConfig) as refused:
        load(path, check)
    said = str(refused.value)
    assert "the environment variable A_URL of the server is not set" in said
    assert f"cannot read {tmp_path / 'b.url'}" in said
    assert "`verify=no`" in said
    assert "nope://[redacted] is no address" in said
    monkeypatch.setenv("A_URL", " json://one \n")
    (tmp_path / "b.url").write_text("json://two\n")
    path.write_text("targets: {a: {url_env: A_URL}, b: {url_file: b.url}}")
    loaded = load(path, check)
    assert loaded.addresses == {"a": "json://one", "b": "json://two"}
    assert "json://" not in repr(loaded)
    assert loaded.plan == Plan.model_validate({"targets": {"a": {"url_env": "A_URL"}, "b": {"url_file": "b.url"}}})


def test_a_file_is_checked_by_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "notify.yaml"
    path.write_text("targets: {a: {url: 'json://h'}}\nrules: [{tell: [a]}]")
    fine = rollout("notify", "check", str(path))
    assert (fine.exit_code, fine.stdout.split()[-1]) == (0, "a")
    path.write_text("targets: {a: {url: 'slack://SECRET'}}\nrules: [{tell: [b]}]")
    wrong = rollout("notify", "check", str(path))
    assert wrong.exit_code == 1
    assert "notify.yaml:2: rules[0].tell[0]" in wrong.stderr
    assert "SECRET" not in wrong.output
