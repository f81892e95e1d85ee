"""What failed, as the rows stand now: by kind, with reasons and pictures; and what a listing passed by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import cast

from markupsafe import Markup

from pipeline.page.charts import bars
from pipeline.page.opened import tile
from pipeline.page.parts import DASH, EMPTY, Row, html, joined, name_of, plural, section, table
from pipeline.page.sample import Account, Report, Sample
from pipeline.page.state import entries, numbers, whole
from pipeline.page.truth import FAILED
from pipeline.source.passed import counted

RETRY = "The job's command with --retry-failed does them again."


def errors(account: Account, sample: Sample) -> Markup:
    """Failures by kind, with examples, and what a listing passed by; nothing where there is none."""
    rows = sample.survey.failed()
    failed = int(whole(account).get("failed", 0))
    examples = rows[:FAILED] or (_reported(account) if failed else [])
    passed = _passed_by(account)
    if not examples and not failed:
        return section("errors", "Passed by", "", passed) if passed else EMPTY
    kinds = Counter(str(row.get("status")) for row in rows)
    drawn = bars("Failed images by kind", [(name, float(n), f"{n:,}") for name, n in kinds.most_common()], kind="bad")
    lead = f"{plural(max(failed, len(rows)), 'image')} failed, as the output is now. {RETRY}"
    if rows and not sample.survey.whole:
        lead += f" The kinds are those of {sample.survey.of(len(sample.survey.rows))}."
    return section("errors", "Errors", lead, drawn if rows else EMPTY, _table(examples, sample), passed)


def _table(examples: list[Row], sample: Sample) -> Markup:
    heads = ("Image", "Status", "Why")
    return table("Failed images", heads, (_cells(row, sample) for row in examples)) if examples else EMPTY


def _cells(row: Row, sample: Sample) -> tuple[Markup, Markup, str]:
    uri = row.get("uri", "")
    picture = html('<div class="few">{}</div>', tile(sample, row, name_of(row))) if uri in sample.thumbnails else EMPTY
    return (
        html('{}<span class="uri">{}</span>', picture, uri),
        html("<code>{}</code>", row.get("status") or DASH),
        str(row.get("error") or DASH),
    )


def _reported(account: Account) -> list[Row]:
    """The newest runs' examples, for an output too large to find its failed rows."""
    shown: dict[str, Mapping[str, object]] = {}
    for run in reversed(account.runs):
        for example in entries(run, "examples"):
            if isinstance(example, dict) and isinstance(example.get("uri"), str):
                shown.setdefault(example["uri"], example)
    return cast("list[Row]", list(shown.values())[:FAILED])


def _passed_by(account: Account) -> Markup:
    """What the newest run's listing passed by, which has seen the whole source; and what each run met in new shards."""
    photos, others = (Counter(_counts(account.last, name)) for name in ("unreadable", "skipped"))
    for run in account.runs:
        photos.update(_counts(run, "unreadable_in_shards"))
    names = {"Photos that could not be read there, passed by": photos, "Not images, passed by": others}
    return joined(html('<p class="lead">{}: {}.</p>', said, counted(kinds)) for said, kinds in names.items() if kinds)


def _counts(run: Report, name: str) -> dict[str, int]:
    """The counts in a run's report, by name."""
    return {kind: int(number) for kind, number in numbers(run, name).items()}
