from collections.abc import Sequence

SLOTS: int

def share_out(entries: Sequence[tuple[int, int]], n_slots: int = 65537) -> list[int | None]: ...
