"""Equations 1 to 8 of "Prefill-as-a-Service" (arXiv 2604.15039), one function each.

The model is a steady state without queues: every offloaded request has the mean offloaded length, every other one the mean
of the rest; transfer and prefill overlap completely, so the slower one governs; the network inside a site never binds.
"""

from math import inf


def kv_bytes_per_s(kv_bytes: float, prefill_s: float) -> float:
    """Eq 1, Phi_kv(l) = S_kv(l) / T_prefill(l): how fast one busy instance makes KV."""
    return _per(kv_bytes, prefill_s)


def cluster_egress_bytes_per_s(gpus: int, gpus_per_instance: int, mean_kv_bytes: float, mean_prefill_s: float) -> float:
    """Eq 2, B_out = (N / P) E[S_kv] / E[T_prefill]: the egress that keeps a whole prefill cluster busy."""
    return gpus / gpus_per_instance * kv_bytes_per_s(mean_kv_bytes, mean_prefill_s)


def prfaas_req_s(n_prfaas: float, prefill_s: float, egress_bytes_per_s: float, kv_bytes: float) -> float:
    """Eq 3, Theta_prfaas = min(N_prfaas / T_prefill(l_long), B_out / S_kv(l_long))."""
    return min(_per(n_prfaas, prefill_s), _per(egress_bytes_per_s, kv_bytes))


def pd_prefill_req_s(n_prefill: float, prefill_s: float) -> float:
    """Eq 4, Theta_pd-p = N_p / T_prefill(l_short)."""
    return _per(n_prefill, prefill_s)


def pd_decode_req_s(n_decode: float, batch_max: float, step_s: float, output_tokens: float) -> float:
    """Eq 5, Theta_pd-d = N_d BS_max / (T_decode L_out)."""
    return n_decode * batch_max / (step_s * output_tokens)


def throughput_req_s(offloaded_share: float, prfaas_req_s: float, pd_prefill_req_s: float, pd_decode_req_s: float) -> float:
    """Eq 6, Lambda_max = min(Theta_prfaas / p, Theta_pd-p / (1 - p), Theta_pd-d)."""
    return min(
        stage_limit_req_s(prfaas_req_s, offloaded_share),
        stage_limit_req_s(pd_prefill_req_s, 1 - offloaded_share),
        pd_decode_req_s,
    )


def threshold_imbalance_req_s(offloaded_share: float, prfaas_req_s: float, pd_prefill_req_s: float) -> float:
    """Eq 7 as a difference: Theta_prfaas / p - Theta_pd-p / (1 - p). Zero at the best threshold, positive above it."""
    remote, local = stage_limit_req_s(prfaas_req_s, offloaded_share), stage_limit_req_s(pd_prefill_req_s, 1 - offloaded_share)
    return 0.0 if remote == local else remote - local


def role_imbalance_req_s(prfaas_req_s: float, pd_prefill_req_s: float, pd_decode_req_s: float) -> float:
    """Eq 8 as a difference: Theta_prfaas + Theta_pd-p - Theta_pd-d. Negative: prefill-bound; positive: decode-bound."""
    return prfaas_req_s + pd_prefill_req_s - pd_decode_req_s


def stage_limit_req_s(stage_req_s: float, share: float) -> float:
    """The total rate at which a stage that sees `share` of all requests is full (the terms of Eq 6); no share, no limit."""
    return stage_req_s / share if share > 0 else inf


def _per(amount: float, cost: float) -> float:
    """`amount / cost`; without limit where nothing is to be done (a prompt that is cached as a whole)."""
    if cost > 0:
        return amount / cost
    return inf if amount > 0 else 0.0
