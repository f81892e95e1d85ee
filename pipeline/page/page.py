"""The HTML report: one file, no network. Numbers come from the runs, pictures from a small sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.output.place import Place
from pipeline.page import accuracy, embed, label, segment, tokens
from pipeline.page.drift import drift
from pipeline.page.failures import errors
from pipeline.page.opened import details
from pipeline.page.own import images
from pipeline.page.parts import html, joined, plural
from pipeline.page.runs import header, runs, settings, summary, timing, title_of
from pipeline.page.sample import Account, Decoder, Sample, read_account, take_sample
from pipeline.page.script import DIGEST, SCRIPT
from pipeline.page.style import document
from pipeline.page.survey import read_survey
from pipeline.target import Target

if TYPE_CHECKING:
    from pipeline.plan.verify import Verification

WEIGHT = 2_800_000  # characters that large pictures may fill up a page to
# How the answers of tasks are shown: modules with `COLUMNS`, which the sample reads, and `sections(sample)`, which is
# called for outputs that have the first `NEEDED` of them.
SECTIONS = (accuracy, label, embed, segment, tokens)
SAMPLED = tuple(dict.fromkeys(name for module in SECTIONS for name in module.COLUMNS))
NO_PICTURES = "The images themselves cannot be read from here, so they are not shown."


def write(
    output: str,
    to: str | None = None,
    verified: Verification | None = None,
    decoder: Decoder | None = None,
    truth: str | None = None,
) -> str:
    """Write the report of an output into it, or to `to`, and say where; ConfigError when it is no output of ours.

    `decoder` turns dVAE tokens back into pixels, where one is at hand. `truth` is the kept column that holds the true
    class; without it one of the usual names is taken. ConfigError where the output has no such column.
    """
    place = Place.of(output)
    account = read_account(place)
    target = target_of(place, to)
    survey = read_survey(place, truth, account.bound)
    sample = replace(take_sample(account, SAMPLED, survey), decoder=decoder)
    text = render(account, sample, verified)
    return target.put(text)


def target_of(place: Place, to: str | None) -> Target:
    """Where the page goes; raises ConfigError where it cannot be written."""
    return Target.of(to, "--to") if to else Target.of(place.page_file, advice="give --to FILE")


def render(account: Account, sample: Sample, verified: Verification | None = None) -> str:
    """The page; the same output gives the same bytes."""
    parts = [
        summary(account, sample, verified),
        *_pictures(sample),
        drift(account),
        errors(account, sample),
        timing(account),
        runs(account),
        settings(account),
    ]
    body = joined(parts)
    more = [details(sample, WEIGHT - len(body)), html("<script>{}</script>", Markup(SCRIPT))]
    return document(title_of(account), header(account), [body], joined([_footer(sample), *more]), script=DIGEST)


def _pictures(sample: Sample) -> list[Markup]:
    """The sections for the output's columns; for an unknown task its images and their scalar columns."""
    drawn: list[Markup] = []
    if sample.good() and not sample.thumbnails:
        drawn.append(html('<p class="notice">{}</p>', NO_PICTURES))
    for module in SECTIONS:
        if sample.columns.issuperset(module.COLUMNS[: module.NEEDED]):
            drawn += module.sections(sample)
    return drawn if any("<section" in part for part in drawn) else [*drawn, images(sample)]


def _footer(sample: Sample) -> Markup:
    told = (
        f"Pictures and distributions show a sample: {plural(len(sample.rows), 'row')} of {sample.files:,} "
        f"of {plural(sample.file_count, 'data file')}, {sample.bytes_read / 1e6:,.1f} MB read. "
        "Counts are those of the runs."
    )
    return html("<footer>{}</footer>", told)
