"""What a run says of its accelerators."""

import time

import pytest

from pipeline.output.receipts import DeviceUsed, Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.report import RunReport, fed


def receipt(number: int, predict_s: float, device: str = "NVIDIA L4") -> Receipt:
    facts = SpanFacts(f"span-{number}", "", "", 0, 100, 100, {"ok": 100})
    return Receipt(facts, 100, (), {"read": 1.0, "decode": 9.0, "predict": predict_s, "write": 0.1}, DeviceUsed(device))


def after(*receipts: Receipt, seconds: float) -> RunReport:
    """The first receipt, and the others so many seconds later."""
    report = RunReport("run", "embed")
    for one in receipts:
        report.add(one)
    report.first_came = report.last_came - seconds
    return report


def test_the_busy_share_is_of_the_time_between_the_first_span_and_the_last() -> None:
    report = after(receipt(0, 50.0), receipt(1, 3.0), receipt(2, 3.1), seconds=10)
    assert report.busy(1) == pytest.approx(0.61)
    assert report.busy(2) == pytest.approx(0.305)
    assert report.busy(0) is None


def test_cpus_and_single_spans_get_no_verdict() -> None:
    assert after(receipt(0, 1, "cpu"), receipt(1, 1, "cpu"), seconds=9).busy(2) is None
    report = RunReport("run", "embed")
    assert report.busy(1) is None
    report.add(receipt(0, 1.0))
    time.sleep(0.01)
    assert report.busy(1) is None


def test_the_verdict_says_how_many_cores_are_missing() -> None:
    assert fed(0.97, 14) == "the accelerators were busy 97% of the time"
    assert "61% of the time: decoding held them up, 10 more cores would feed them" in fed(0.61, 15)
    assert fed(0.94, 2).endswith(" 1 more core would feed them")
