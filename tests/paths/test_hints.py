"""The gate's hints: per type a function or an action, and alarms once per feature and meter."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from langchain_vluna import ConfigurationError, GateDenied, Hint
from langchain_vluna._core.types import Identity
from langchain_vluna.gate.hints import Advice
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CUSTOMER, GRANT, MODEL, Till

WHO = Identity(CUSTOMER)
LOW = Hint("budget.low_headroom", {"headroom_xusd": 10, "threshold_xusd": 1000})
USAGE = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}


def model(**options: object) -> ScriptedChatModel:
    return ScriptedChatModel(**{"responses": ["Yes."], "usage": USAGE, **options})  # type: ignore[arg-type]


class Clock:
    """Monotonic seconds and a revision that tests move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.revision = 0


def advice(on_hint: Any, clock: Clock | None = None) -> Advice:
    clock = clock or Clock()
    return Advice(on_hint, brief=1.0, clock=lambda: clock.now, revision=lambda: clock.revision)


def warned(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_hint_at_authorize_can_block_the_work(make_till):
    """With `raise` a run whose authorize hints is denied before its model is called, and its lease is cancelled."""
    till = make_till(options={"on_hint": {"quota.remaining": "raise"}})
    asked = model(max_tokens=GRANT)
    with pytest.raises(GateDenied, match="on_hint says 'raise'") as denial:
        asked.invoke("question", till.unwitnessed())
    assert ("quota", ("quota.remaining",)) == (denial.value.reason, tuple(h.type for h in denial.value.hints))
    assert (0, []) == (asked.calls, till.open_leases())
    assert ["canceled"] == [lease.state for lease in till.ledger.leases()]
    assert (MODEL, CUSTOMER) == (denial.value.feature_code, denial.value.principal_id)


def test_retries_of_a_hinted_run_ask_the_gate_once(make_till):
    """`with_retry` repeats the run, and the objection is repeated without asking the gate again."""
    till = make_till(options={"on_hint": {"quota.remaining": "raise"}})
    asked = model(max_tokens=GRANT).with_retry(stop_after_attempt=4, wait_exponential_jitter=False)
    with pytest.raises(GateDenied):
        asked.invoke("question", till.unwitnessed())
    assert 1 == till.asked


def test_an_unpriced_meter_can_block_before_work_is_given_away(make_till):
    """With `raise` on pricing.not_configured nothing is done that the gate could not charge."""
    till = make_till(options={"on_hint": {"pricing.not_configured": "raise"}})
    asked = model(model="unpriced")
    with pytest.raises(GateDenied, match=r"pricing\.not_configured"):
        asked.invoke("question", till.unwitnessed())
    assert 0 == asked.calls


def test_a_hint_of_a_commit_blocks_the_next_run(make_till):
    """A budget that a commit finds low blocks the customer's next run where the user says `raise`."""
    till = make_till(options={"on_hint": {"budget.low_headroom": "raise"}})
    budget = till.ledger.budget(CUSTOMER, 500)
    handler = till.handler(budget=budget, estimate=None)
    model().invoke("first", till.unwitnessed(handler))
    assert 1 == len(till.ratings())
    second = model()
    with pytest.raises(GateDenied, match=r"budget\.low_headroom") as denial:
        second.invoke("second", till.unwitnessed(handler))
    assert ("budget", 0, 1) == (denial.value.reason, second.calls, till.asked)
    till.ledger.grant(CUSTOMER, 1)
    second.invoke("after a change at the gate", till.unwitnessed(handler))
    assert 1 == second.calls


def test_by_default_hints_warn_once_and_let_the_work_go_on(make_till, caplog: pytest.LogCaptureFixture):
    """The defaults log each type once per feature and customer, and deny nothing."""
    till = make_till()
    asked = model(max_tokens=GRANT)
    for _ in range(3):
        asked.invoke("question", till.config())
    assert 3 == asked.calls
    assert 1 == len([text for text in warned(caplog) if "quota.remaining" in text])


def test_one_function_is_told_every_hint(make_till):
    """A function in place of a mapping is called with each hint, of authorizes and of commits."""
    heard: list[Hint] = []
    till = make_till(options={"on_hint": heard.append})
    model(max_tokens=GRANT).invoke("question", till.config())
    model(model="unpriced").invoke("question", till.config())
    till.gate.flush()
    assert {"quota.remaining", "pricing.not_configured"} <= {hint.type for hint in heard}


@pytest.mark.parametrize(
    ("on_hint", "level", "count"),
    [
        ({"budget.low_headroom": "ignore"}, logging.WARNING, 0),
        ({"budget.low_headroom": "log"}, logging.INFO, 1),
        ({"budget.low_headroom": "warn"}, logging.WARNING, 1),
        ({"*": "log"}, logging.INFO, 1),
        ({"*": "log", "budget.low_headroom": "ignore"}, logging.INFO, 0),
        ({"budget.low_headroom": lambda _: "log"}, logging.INFO, 1),
        ({"budget.low_headroom": lambda _: None}, logging.WARNING, 0),
        (lambda _: "ignore", logging.WARNING, 0),
        (None, logging.WARNING, 1),
        ({}, logging.WARNING, 1),
    ],
)
def test_each_choice_logs_as_it_says(on_hint: Any, level: int, count: int, caplog: pytest.LogCaptureFixture):
    """An action logs at its level, once; a function's answer is an action; `*` stands for all other types."""
    caplog.set_level(logging.DEBUG)
    heard = advice(on_hint)
    for _ in range(2):
        assert heard.admitted([LOW], WHO, "a.b") is None
    assert count == len(warned(caplog, level))


def test_a_function_that_fails_is_logged_and_the_default_holds(caplog: pytest.LogCaptureFixture):
    """A broken function breaks neither run nor settlement."""

    def broken(hint: Hint) -> None:
        raise KeyError(hint.type)

    assert advice({"budget.low_headroom": broken}).admitted([LOW], WHO, "a.b") is None
    assert ["the on_hint function failed for hint 'budget.low_headroom'"] == warned(caplog, logging.ERROR)
    assert 1 == len(warned(caplog))


def test_an_unknown_action_is_refused():
    """A misspelt action is a configuration error that names the type and the choices."""
    with pytest.raises(ConfigurationError, match=r"on_hint\['rate.limit'\] must be .*degrade.*'rais'"):
        advice({"rate.limit": "rais"})


def test_an_objection_of_a_commit_stands_for_a_minute():
    """It blocks the same customer and feature, until a minute has passed or a local gate has changed."""
    clock = Clock()
    heard = advice({"budget.low_headroom": "raise"}, clock)
    heard.settled([LOW], WHO, "a.b")
    assert isinstance(heard.standing(WHO, "a.b"), GateDenied)
    assert heard.standing(WHO, "a.c") is None
    assert heard.standing(Identity("other"), "a.b") is None
    clock.now += 59
    assert heard.standing(WHO, "a.b") is not None
    clock.now += 2
    assert heard.standing(WHO, "a.b") is None
    heard.settled([LOW], WHO, "a.b")
    clock.revision += 1
    assert heard.standing(WHO, "a.b") is None


def test_a_later_word_does_not_shorten_an_earlier_one():
    """An authorize that hints as well does not end the minute of a commit."""
    clock = Clock()
    heard = advice({"*": "raise"}, clock)
    heard.settled([LOW], WHO, "a.b")
    heard.admitted([LOW], WHO, "a.b")
    clock.now += 30
    assert heard.standing(WHO, "a.b") is not None


def test_an_objection_is_raised_even_if_nothing_is_remembered():
    """With no memory at all the hint of an authorize still blocks its own run."""
    heard = Advice({"*": "raise"}, brief=0.0, clock=iter(range(100)).__next__, revision=lambda: 0)
    assert isinstance(heard.admitted([LOW], WHO, "a.b"), GateDenied)
    assert heard.standing(WHO, "a.b") is None


def test_a_shortfall_of_one_is_no_warning(caplog: pytest.LogCaptureFixture):
    """A shortfall of 1 only says that there is no balance, which a plan may have agreed to."""
    caplog.set_level(logging.INFO)
    advice(None).admitted([Hint("funding.xusd_shortfall", {"shortfall_xusd": 1})], WHO, "a.b")
    assert ([], 1) == (warned(caplog), len(warned(caplog, logging.INFO)))


def test_quarantine_alarms_once_and_is_counted(make_till, caplog: pytest.LogCaptureFixture):
    """Usage that is recorded and not charged is an error in the log and one alarm per meter; then it is counted."""
    alarms: list[Any] = []
    till = make_till(options={"on_alarm": alarms.append})
    for _ in range(3):
        model(model="unpriced").invoke("question", till.config())
        till.gate.flush()
    feature = "scripted.unpriced"
    meters = (f"{feature}.tokens.input", f"{feature}.tokens.output")
    assert [("quarantined", feature, CUSTOMER, meters)] == [
        (alarm.kind, alarm.feature_code, alarm.principal_id, alarm.meters) for alarm in alarms
    ]
    assert 1 == len([text for text in warned(caplog, logging.ERROR) if "NOT charged" in text])
    counts = till.gate.engine.observers.alarm_counts
    assert {("quarantined", feature, meter): 3 for meter in meters} == dict(counts)


def test_only_the_meter_without_a_price_is_blamed(make_till):
    """Where one of two meters has a price, the alarm names the other."""
    alarms: list[Any] = []
    till = make_till(options={"on_alarm": alarms.append})
    till.ledger.price("scripted.half", "scripted.half.tokens.input", 1)
    model(model="half").invoke("question", till.config())
    till.gate.flush()
    assert [("scripted.half.tokens.output",)] == [alarm.meters for alarm in alarms]
    till.ledger.price("scripted.half", "scripted.half.tokens.output", 1)
    model(model="half").invoke("question", till.config())
    till.gate.flush()
    assert 1 == len(alarms)


def test_a_silenced_hint_still_alarms(make_till):
    """Ignoring hints does not silence the alarm that work was given away."""
    alarms: list[Any] = []
    till = make_till(options={"on_alarm": alarms.append, "on_hint": {"*": "ignore"}})
    model(model="unpriced").invoke("question", till.config())
    till.gate.flush()
    assert 1 == len(alarms)


def test_an_alarm_function_that_fails_is_logged(make_till, caplog: pytest.LogCaptureFixture):
    """A broken alarm function does not stop the settlement of other runs."""

    def broken(alarm: object) -> None:
        raise KeyError(alarm)

    till = make_till(options={"on_alarm": broken})
    model(model="unpriced").invoke("question", till.config())
    model().invoke("question", till.config())
    assert ["quarantined", "applied"] == sorted((r.status for r in till.ratings()), reverse=True)
    assert "the on_alarm function failed" in warned(caplog, logging.ERROR)


def test_hints_are_on_the_bill(make_till):
    """What the gate said about a run is on its customer's bill."""
    till: Till = make_till()
    model(max_tokens=GRANT).invoke("question", till.config())
    assert "quota.remaining" in {hint.type for hint in till.gate.bill(principal_id=CUSTOMER).hints}
