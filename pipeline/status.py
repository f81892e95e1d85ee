"""How it went with an image: the statuses of rows."""

from typing import Final, Literal

Status = Literal["ok", "fetch_error", "decode_error", "too_large", "predict_error", "quarantined"]
OK: Final = "ok"
