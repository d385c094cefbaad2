"""Profiles that come with the project, each with its source: figures of arXiv 2604.15039 and what follows from them.

The paper prints no profile of its H20 machines, no decode profile and no batch limit. They are recovered from its results
(Table 6), so a plan that uses them cannot confirm those results; it can only show that they hang together.
"""

import bisect

import msgspec

from prfaas.capacity.profiles import BITS_PER_BYTE, DecodePoint, PrefillPoint, Profile, ProfileError

MIB = 1 << 20

_TABLE_5 = {1: (0.44, 190.8), 8: (0.72, 308.9), 32: (1.84, 701.3), 128: (7.40, 2316.3)}
"""Pairs (T_prefill in s, S_kv in MiB) by Ki tokens. Table 5's K are 1024, by its S_kv column: 17,276 bytes a token from 1K to 8K,
and 15 MLA layers x (512 + 64) values x 2 bytes are 17,280."""


def _paper_1t_h200() -> Profile:
    return Profile(
        name="paper-1t-h200",
        source="arXiv 2604.15039, Table 5: 1T hybrid (KDA:MLA 3:1) on 8 H200.",
        prefill=tuple(
            PrefillPoint(tokens=thousand * 1024, prefill_s=prefill_s, kv_bytes=mib * MIB)
            for thousand, (prefill_s, mib) in _TABLE_5.items()
        ),
    )


def _paper_1t_h200_anchored() -> Profile:
    table = _paper_1t_h200()
    implied = tuple(
        PrefillPoint(tokens=tokens, prefill_s=prefill_s, kv_bytes=table.kv_bytes(tokens))
        for tokens, prefill_s in ((27_486, 4 / 2.45), (45_046, 4 / 1.61))
    )
    return Profile(
        name="paper-1t-h200-anchored",
        source="arXiv 2604.15039, Table 5, and two points implied by Table 6: 4 instances make 2.45 req/s at the mean length and "
        "1.61 req/s at the mean offloaded length.",
        prefill=tuple(sorted(table.prefill + implied, key=lambda point: point.tokens)),
    )


def _paper_1t_h20() -> Profile:
    """T(l) = 0.4711 + 1.297e-4 l + 3.022e-10 l^2 goes through 3/1.64 s at 10,224 tokens, 9/2.11 s at 27,486 and 9.73 s at 62,325.

    Decode: 5, 3 and 8 instances make 3.91, 2.35 and 6.25 req/s of 1,024 tokens; with steps of 25 ms (the SLO of 40 tokens/s)
    that is a batch of 20.0 in all three."""
    table = _paper_1t_h200()
    anchors = (10_224, 27_486, 62_325)
    lengths = sorted({*(1024 << power for power in range(8)), *anchors})
    return Profile(
        name="paper-1t-h20",
        source="Derived from arXiv 2604.15039, Table 6 (the paper prints no H20 profile): a quadratic through the three prefill "
        "times that its rates and P90 TTFT imply, and the batch of 20 that its decode rates imply. KV sizes are Table 5's.",
        prefill=tuple(
            PrefillPoint(
                tokens=tokens, prefill_s=0.4711 + 1.297e-4 * tokens + 3.022e-10 * tokens**2, kv_bytes=table.kv_bytes(tokens)
            )
            for tokens in lengths
        ),
        decode=(DecodePoint(batch=20, step_s=0.025),),
    )


class KvRate(msgspec.Struct, frozen=True, kw_only=True):
    """Phi_kv of a model whose published figure is only this quotient of cache size and prefill time."""

    name: str
    source: str
    points: tuple[tuple[int, float], ...]
    """Pairs (tokens, Phi_kv in Gbit/s) of one instance, in rising order of tokens."""

    def kv_gbit_s(self, tokens: float) -> float:
        """Eq 1, read off the line between two measured points; beyond the ends the value of the nearest point."""
        right = bisect.bisect_left(self.points, tokens, key=lambda point: point[0])
        if right in (0, len(self.points)):
            return self.points[min(right, len(self.points) - 1)][1]
        (left_tokens, left), (right_tokens, rate) = self.points[right - 1], self.points[right]
        return left + (rate - left) * (tokens - left_tokens) / (right_tokens - left_tokens)

    def profile(self, name: str, *, kv_bytes_per_token: float, source: str) -> Profile:
        """T_prefill(l) = S_kv(l) / Phi_kv(l) (Eq 1 turned around), once the cache's size is known from the architecture."""
        return Profile(
            name=name,
            source=f"{self.source} Cache size: {source}; prefill time from the two by Eq 1.",
            prefill=tuple(
                PrefillPoint(
                    tokens=tokens,
                    kv_bytes=tokens * kv_bytes_per_token,
                    prefill_s=tokens * kv_bytes_per_token * BITS_PER_BYTE / (gbit_s * 1e9),
                )
                for tokens, gbit_s in self.points
            ),
        )


def _table_3() -> dict[str, KvRate]:
    columns = {
        "kimi-linear": (1.19, 2.29, 3.87, 4.88),
        "mimo-v2-flash": (0.82, 2.85, 4.66, 4.71),
        "qwen3.5-397b": (4.13, 6.28, 8.25, 7.47),
        "ring-2.5-1t": (7.27, 4.47, 2.59, 1.46),
        "minimax-m2.5": (4.94, 32.87, 59.93, 47.82),
        "qwen3-235b": (4.12, 22.42, 33.35, 21.50),
    }
    lengths = (1024, 8192, 32_768, 131_072)
    source = "arXiv 2604.15039, Table 3: 8 H200, SGLang 0.5.9."
    return {
        name: KvRate(name=name, source=source, points=tuple(zip(lengths, rates, strict=True))) for name, rates in columns.items()
    }


KV_RATES = _table_3()
"""Models of Table 3, by name. The first four are hybrids, the last two have full attention in every layer."""

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _paper_1t_h200(),
        _paper_1t_h200_anchored(),
        _paper_1t_h20(),
        KV_RATES["minimax-m2.5"].profile(
            "minimax-m2.5-h200",
            kv_bytes_per_token=62 * 2 * 8 * 128 * 2,
            source="62 layers x 8 KV heads x 128 x 2 (keys, values) x 2 bytes, transformers' MiniMaxM2Config",
        ),
        KV_RATES["qwen3-235b"].profile(
            "qwen3-235b-h200",
            kv_bytes_per_token=94 * 2 * 4 * 128 * 2,
            source="94 layers x 4 KV heads x 128 x 2 (keys, values) x 2 bytes, the model's card",
        ),
    )
}


def builtin_profile(name: str) -> Profile:
    """Returns a profile by name. Raises ProfileError, which lists the names there are."""
    if name not in PROFILES:
        raise ProfileError(f"there is no built-in profile {name}; there are {', '.join(sorted(PROFILES))}.")
    return PROFILES[name]
