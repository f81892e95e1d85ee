"""A page of the images whose first label differs between two outputs, with their pictures."""

from __future__ import annotations

from markupsafe import Markup

from pipeline.compare import Comparison, Labels
from pipeline.errors import ConfigError
from pipeline.images import wanted_by
from pipeline.output.bound import bound_of
from pipeline.output.place import Place
from pipeline.page.parts import Row, figure, html, image, joined, key_line, plural, section, share, sheet
from pipeline.page.pictures import Pictured, thumbnails
from pipeline.page.sample import THUMBNAIL
from pipeline.page.style import document
from pipeline.target import Target


def write(found: Comparison, new: str, old: str, to: Target) -> str:
    """Write the page, and say where it is; raises ConfigError where no labels were compared."""
    if not isinstance(found.difference, Labels):
        raise ConfigError("--to shows changed labels, and these outputs have none")
    flips = found.difference.flips
    wanted = wanted_by(bound_of(Place.of(new)))
    pictures = thumbnails([Pictured(flip.uri, flip.source) for flip in flips], THUMBNAIL, wanted)
    cards = []
    for flip in flips:
        row = Row(uri=flip.uri)
        said = [(flip.before, flip.score_before), (flip.after, flip.score_after)]
        lines = joined(html("<span><i>{}</i> <b>{}</b></span>", name, share(score)) for name, score in said)
        caption = html(
            '<p class="answer"><strong>{}</strong></p><p class="others">{}</p>{}', flip.after, lines, key_line(row)
        )
        cards.append(figure(image(pictures.get(flip.uri), f"{flip.before}, now {flip.after}"), caption))
    title = f"{plural(found.difference.images - found.difference.same, 'image')} with another first label"
    header = html('<header><p class="eyebrow">{} · {}</p><h1>{}</h1></header>', old, new, title)
    counts = joined(html("<p>{}</p>", line) for line in found.lines() if not line.startswith(" "))
    lead = "Those of which the new output is surest; the old label comes first."
    parts = [section("counts", "Both outputs", "", counts), section("flips", "Changed labels", lead, sheet(cards))]
    return to.put(document(title, header, parts, Markup()))
