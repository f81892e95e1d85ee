"""What the fault proxy can do to a request, and to which."""

from dataclasses import dataclass
from urllib.parse import unquote

from tests.http1 import Head

REPLIES = {
    "503": ("503 Slow Down", "SlowDown"),
    "500": ("500 Internal Server Error", "InternalError"),
    "403": ("403 Forbidden", "AccessDenied"),
    "404": ("404 Not Found", "NoSuchKey"),
    "expired": ("403 Forbidden", "ExpiredToken"),
}
# rst: reset before the server hears of the request. lost: the server carries it out, its reply is reset away.
# mute: the server carries it out, and its reply never comes (a stall with after=0 is silent before it hears of it).
# midrst, trunc, stall: reset, end, or silence for `secs` and then end, once `after` bytes of the reply's body are sent
# (stall with after=0 sends nothing at all). latency: wait `secs` first. slow: `bps` bytes a second.
KINDS = (*REPLIES, "rst", "lost", "mute", "midrst", "trunc", "stall", "latency", "slow")


@dataclass
class Rule:
    """What to do to requests whose path (and query) hold these substrings, url-decoded; `times` -1 means for ever.

    `hits` counts the requests it met, `silences` those that it has left without a word.
    """

    kind: str
    match: str = ""
    method: str = ""
    query: str = ""
    signer: str = ""  # a part of the access key that the request is signed with
    times: int = -1
    after: int = 0
    secs: float = 3600.0
    bps: int = 65536
    hits: int = 0
    silences: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of fault {self.kind!r}; known are {', '.join(KINDS)}")

    def fits(self, head: Head) -> bool:
        path, _, query = head.target.partition("?")
        live = self.times < 0 or self.hits < self.times
        signed = self.signer in head.headers.get("authorization", "")
        asked = self.match in unquote(path) and self.query in unquote(query)
        return live and signed and asked and self.method in ("", head.method)
