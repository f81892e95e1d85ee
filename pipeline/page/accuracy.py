"""Labels against the truth in a kept column: the share that is right, what is taken for what, the wrong pictures."""

from __future__ import annotations

from collections import Counter, defaultdict

from markupsafe import Markup

from pipeline.page.charts import bars
from pipeline.page.opened import tile
from pipeline.page.parts import EMPTY, Row, figure, html, joined, key_line, name_of, plural, section, share, subsection
from pipeline.page.sample import Sample
from pipeline.page.truth import WRONG, Judged, Verdict, verdict, why

COLUMNS = ("labels", "label_ids", "scores")
NEEDED = 3
MATRIX = 12  # classes up to which all pairs are shown
CONFUSIONS = 16


def sections(sample: Sample) -> list[Markup]:
    """Accuracy, confusions and mistakes; nothing where there is no truth."""
    judged = verdict(sample.survey)
    if judged is None:
        return []
    lead = (
        f"{judged.right:,} of {sample.survey.of(len(judged.rows))} have the class in the column {judged.column} as "
        f"their first label: {judged.accuracy}."
    )
    return [section("truth", "Accuracy", lead, _confusions(judged), _mistakes(judged, sample))]


def _confusions(judged: Verdict) -> Markup:
    found = judged.confusions()
    if not found:
        return EMPTY
    classes = sorted({one.true for one in judged.rows} | {one.said for one in judged.rows})
    if len(classes) <= MATRIX:
        lead = "A row per true class: how often each label came first."
        return subsection("What is taken for what", lead, _matrix(judged, classes))
    lead = "The most frequent pairs: the true class, and the label that came first."
    entries = [(f"{true} → {said}", float(number), f"{number:,}") for true, said, number in found[:CONFUSIONS]]
    rest = sum(number for *_, number in found[CONFUSIONS:])
    if rest:
        entries.append((f"{len(found) - CONFUSIONS:,} other pairs", float(rest), f"{rest:,}"))
    return subsection("What is taken for what", lead, bars("Most frequent confusions", entries, kind="bad long"))


def _matrix(judged: Verdict, classes: list[str]) -> Markup:
    counts = Counter((one.true, one.said) for one in judged.rows)
    rows = []
    for true in classes:
        total = sum(counts[true, said] for said in classes)
        cells = [_cell(counts[true, said], total, right=true == said) for said in classes]
        found = share(counts[true, true] / total) if total else ""
        rows.append(html('<tr><th scope="row">{}</th>{}<td class="n">{}</td></tr>', true, joined(cells), found))
    heads = joined(html('<th scope="col" class="n">{}</th>', name) for name in classes)
    return html(
        '<div class="scroll" role="region" aria-label="Confusion matrix" tabindex="0"><table class="matrix">'
        '<caption class="hidden">True classes in rows, first labels in columns</caption>'
        "<thead><tr><td>true \\ said</td>{}"
        '<th scope="col" class="n">right</th></tr></thead><tbody>{}</tbody></table></div>',
        *(heads, joined(rows)),
    )


def _cell(number: int, total: int, *, right: bool) -> Markup:
    if not number:
        return Markup('<td class="n none">&middot;</td>')
    heat = round(8 + 30 * number / total)
    return html('<td class="n {}" style="--heat: {}%">{:,}</td>', "right" if right else "wrong", heat, number)


def _mistakes(judged: Verdict, sample: Sample) -> Markup:
    wrong = judged.wrong()
    if not wrong:
        return EMPTY
    shown = [one for one in wrong if one.row["uri"] in sample.thumbnails][:WRONG] or wrong[:WRONG]
    typical = _typical(judged, sample)
    lead = f"{plural(len(shown), 'wrong answer')} of {len(wrong):,}, the surest first."
    if typical:
        lead += " Beside each are the surest right answers of both classes."
    cards = joined(_mistake(one, typical, sample) for one in shown)
    return subsection("Wrong", lead, html('<div class="sheet pairs">{}</div>', cards))


def _typical(judged: Verdict, sample: Sample) -> dict[str, Row]:
    """Of each class the surest right answer whose picture is at hand."""
    best: dict[str, list[Judged]] = defaultdict(list)
    for one in judged.rows:
        if one.right and one.row["uri"] in sample.thumbnails:
            best[one.true].append(one)
    return {name: max(ones, key=lambda one: (one.score, one.row["uri"])).row for name, ones in best.items()}


def _mistake(one: Judged, typical: dict[str, Row], sample: Sample) -> Markup:
    beside = [name for name in (one.said, one.true) if name in typical]
    pictures = [_captioned(one.row, "this image", sample)]
    pictures += [_captioned(typical[name], f"a sure {name}", sample, small=True) for name in beside]
    caption = html(
        '<p class="answer"><strong title="{}">{}</strong><b>{}</b></p><p class="why">{}</p>{}',
        *(one.said, one.said, share(one.score), why(one), key_line(one.row)),
    )
    return figure(html('<div class="pair three">{}</div>', joined(pictures)), caption, "wide")


def _captioned(row: Row, said: str, sample: Sample, *, small: bool = False) -> Markup:
    picture = tile(sample, row, f"{name_of(row)}: {said}", small=small)
    return html('<div>{}<p class="under">{}</p></div>', picture, said)
