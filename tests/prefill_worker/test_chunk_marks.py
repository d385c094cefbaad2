"""Moments at which the chunks of a prefill were computed, from the pieces of their layers."""

from prfaas_prefill_worker.chunk_marks import ChunkMarks


def test_a_chunk_is_computed_when_its_last_layer_is() -> None:
    chunks = ChunkMarks(started_at=10.0)
    for end_token, now_s in ((512, 10.5), (512, 11.0), (1024, 11.5), (1024, 12.0), (1500, 12.2)):
        chunks.piece(end_token, now_s)
    assert chunks.marks() == ((1.0, 512), (2.0, 1024), (12.2 - 10.0, 1500))


def test_a_prefill_without_pieces_has_no_marks() -> None:
    assert ChunkMarks(started_at=10.0).marks() == ()
