"""Chunk times: of what was computed only, without what the link held up."""

from prfaas.kvcache.compute_speed import ComputeSpeed
from prfaas_prefill_worker.chunk_times import ChunkTimes


class Heard(ComputeSpeed):
    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[tuple[int, int, float]] = []

    def observe(self, start: int, end: int, seconds: float) -> None:
        self.chunks.append((start, end, seconds))


def test_a_chunk_takes_from_its_first_piece_to_the_next_ones() -> None:
    heard = Heard()
    times = ChunkTimes(heard)
    times.begin(128)
    for end_token, now_s, held_s in (
        (64, 0.0, 1.0),
        (128, 1.0, 5.0),
        (192, 10.0, 0.0),
        (192, 11.0, 0.5),
        (256, 13.0, 0.0),
        (300, 16.0, 1.0),
    ):
        times.piece(end_token, now_s)
        times.held(held_s)
    assert heard.chunks == [(128, 192, 2.5), (192, 256, 3.0)]
