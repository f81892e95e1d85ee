"""How an output stands, in one sentence: the worst of what its last run and a verification have found; and both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from pipeline.errors import TooManyFailures
from pipeline.page.parts import html, joined, plural
from pipeline.page.sample import Account, Report

if TYPE_CHECKING:
    from pipeline.plan.verify import Verification

COMPLETE = "Complete: every planned image is accounted for."
Kind = Literal["good", "warn", "bad"]


def mapping(holder: Report, name: str) -> dict[str, object]:
    """What a report holds under this name, {} where that is no object."""
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def numbers(holder: Report, name: str) -> dict[str, float]:
    """The numbers in it, by name."""
    return {key: value for key, value in mapping(holder, name).items() if isinstance(value, int | float)}


def entries(holder: Report, name: str) -> list[object]:
    """The list in it, [] where that is none."""
    value = holder.get(name)
    return value if isinstance(value, list) else []


def whole(account: Account) -> dict[str, float]:
    """Images planned, ok and failed over all runs, as the newest run that came to its end counted them."""
    last = _audited(account)
    images = numbers(last, "images")
    return (images if "planned" in images else {}) | numbers(last, "audit")


def _audited(account: Account) -> Report:
    """The newest report that has an audit, which those of interrupted runs lack."""
    return next((run for run in reversed(account.runs) if mapping(run, "audit")), account.last)


def state(account: Account, verified: Verification | None) -> Markup:
    """The sentence, coloured by how bad it is."""
    kind, said = state_of(account, verified)
    return html('<p class="state {}"><i aria-hidden="true"></i>{}</p>', kind, said)


def state_of(account: Account, verified: Verification | None) -> tuple[Kind, str]:
    """How good it is, and the sentence."""
    found = whole(account)
    planned, failed = int(found.get("planned", 0)), int(found.get("failed", 0))
    if verified is not None and not verified.green:
        return "bad", f"Not complete: {harm(verified)}."
    if (
        account.last.get("exit") == TooManyFailures.exit_code and failed
    ):  # they may be forgotten since; then the next run succeeds
        return "warn", f"Finished, but {failed:,} of {plural(planned, 'image')} failed, more than allowed."
    if account.complete:
        return ("warn", f"Complete, {failed:,} failed.") if failed else ("good", COMPLETE)
    if found and not planned:
        return "warn", "No image was found: look at --input and --image-column."
    if missing := int(found.get("missing", 0)):
        return "bad", f"Not complete: {plural(missing, 'image')} missing; the same command continues it."
    why = f" The last run ended with this error: {error}" if (error := account.last.get("error")) else ""
    return "warn", f"Unfinished: the same command continues it.{why}"


def harm(verified: Verification) -> str:
    """What reading every row has found wrong."""
    said = [
        (verified.missing, f"{plural(verified.missing, 'planned image')} missing"),
        (verified.duplicates, f"{plural(verified.duplicates, 'row')} twice"),
        (len(verified.damaged), f"{plural(len(verified.damaged), 'file')} damaged"),
        (verified.remembered, _remembered(verified)),
    ]
    return ", ".join(text for number, text in said if number)


def audit(account: Account, verified: Verification | None) -> Markup:
    """The audit of the newest run that has one, and what reading every row has shown."""
    said: list[Markup] = []
    counts = mapping(_audited(account), "audit")
    if counts:
        text = counts.get("line") or ", ".join(f"{name} {value}" for name, value in counts.items())
        broken = any(counts.get(name) for name in ("missing", "duplicates", "unfinished"))
        said.append(html('<p class="audit{}"><b>Audit</b> {}</p>', " bad" if broken else "", text))
    if verified is not None:
        kind = "" if verified.green else " bad"
        said.append(html('<p class="audit{}"><b>Every row read</b> {}</p>', kind, verified_line(verified)))
    return joined(said)


def verified_line(verified: Verification) -> str:
    """What reading every row has shown, in one line."""
    twice = f"{plural(verified.duplicates, 'row')} twice" if verified.duplicates else "every URI once"
    lost = f", {plural(verified.missing, 'planned image')} missing" if verified.missing else ", none missing"
    such = ", ".join(verified.damaged[:3])
    damaged = f"; {plural(len(verified.damaged), 'file')} damaged: {such}" if such else ""
    remembered = f"; {_remembered(verified)}" if verified.remembered else ""
    forgotten = f", {plural(verified.forgotten, 'image')} forgotten" if verified.forgotten else ""
    rows, files = plural(verified.rows, "row"), plural(verified.files, "file")
    going_on = "" if verified.has_ended else "; the last run has not ended: the same command continues it"
    return f"{rows} in {files}, {verified.ok:,} ok, {twice}{lost}{forgotten}{damaged}{remembered}{going_on}"


def _remembered(verified: Verification) -> str:
    return f"{plural(verified.remembered, 'row')} of forgotten images (forget.py continues, and so does the next run)"
