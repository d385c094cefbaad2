"""One step of the batch in which each row fails for itself."""

from collections.abc import Sequence

from prfaas.engine.protocol import DecodeRow, Engine, EngineError, RowsFailedError, SampledToken


def decode_step(engine: Engine, rows: Sequence[DecodeRow]) -> list[SampledToken | Exception]:
    """Returns each row's next token, or the error that it failed with.

    A step that fails is done again by halves until the rows that it fails with are found. This relies on what `Engine.decode`
    promises: a step that raises has moved nothing, so no row is advanced twice."""
    if not rows:
        return []
    try:
        tokens = engine.decode(rows)
    except RowsFailedError as error:
        if not error.rows or not set(error.rows) <= set(range(len(rows))):
            return [error] * len(rows)
        others = iter(decode_step(engine, [row for index, row in enumerate(rows) if index not in error.rows]))
        return [error if index in error.rows else next(others) for index in range(len(rows))]
    except Exception as error:
        if len(rows) == 1:
            return [error]
        half = len(rows) // 2
        return decode_step(engine, rows[:half]) + decode_step(engine, rows[half:])
    if len(tokens) != len(rows):
        # What has moved is unknown: no row of this step can go on.
        return [EngineError(f"the engine gave {len(tokens)} tokens for {len(rows)} rows")] * len(rows)
    return list(tokens)
