"""Links of known goodput that answer an estimator's probes in simulated time."""

from prfaas_bandwidth_probe.estimator import LinkEstimator
from prfaas_bandwidth_probe.events import (
    DeepTrainAnswered,
    Instruction,
    PongHeard,
    SendPing,
    SendTrain,
    Tick,
    TrainAnswered,
)

LINK_SHARE = 0.01
TIMEOUT_S = 3.0


def make_estimator() -> LinkEstimator:
    return LinkEstimator("far", "home", ping_interval_s=1.0, link_share=LINK_SHARE, timeout_s=TIMEOUT_S)


def answered(
    now_s: float, order: SendTrain, goodput: float, base_s: float = 0.02, noise_s: float = 0.0
) -> TrainAnswered | DeepTrainAnswered:
    train_bytes = order.parts * order.part_bytes
    if order.deep:
        return DeepTrainAnswered(now_s, train_bytes, goodput)
    return TrainAnswered(now_s, base_s, train_bytes, base_s + train_bytes / goodput + noise_s)


def run(
    estimator: LinkEstimator, goodput: float, rtt_s: float, seconds: float, noise_s: float = 0.0, start_s: float = 0.0
) -> list[tuple[float, Instruction]]:
    """Runs trains against a link that answers at once; with noise, all trains but every fourth take longer."""
    told: list[tuple[float, Instruction]] = []
    trains = 0
    for step in range(int(seconds * 10)):
        now_s = start_s + step / 10
        todo = estimator.handle(Tick(now_s))
        while todo:
            order = todo.pop(0)
            told.append((now_s, order))
            if isinstance(order, SendPing):
                todo += estimator.handle(PongHeard(now_s, rtt_s))
            elif isinstance(order, SendTrain):
                trains += 1
                todo += estimator.handle(answered(now_s, order, goodput, rtt_s, noise_s if trains % 4 else 0.0))
            estimator.validate()
    return told


def delivered_s(size_bytes: float, goodput: float, rtt_s: float) -> float:
    """TCP's rate after a pause, counted from the first byte's arrival: a window of ten segments that doubles every round trip."""
    window_bytes, seconds = 14_480.0, 0.0
    while window_bytes < goodput * rtt_s and size_bytes > window_bytes:
        size_bytes -= window_bytes
        window_bytes *= 2
        seconds += rtt_s
    return seconds + size_bytes / goodput


def run_after_pauses(estimator: LinkEstimator, goodput: float, rtt_s: float, start_s: float, seconds: float) -> list[SendTrain]:
    """Every train begins with a small window."""
    sent: list[SendTrain] = []
    for step in range(int(seconds * 4)):
        now_s = start_s + step / 4
        todo = estimator.handle(Tick(now_s))
        while todo:
            order = todo.pop(0)
            if isinstance(order, SendPing):
                todo += estimator.handle(PongHeard(now_s, rtt_s))
            elif isinstance(order, SendTrain):
                sent.append(order)
                train_bytes = order.parts * order.part_bytes
                train_s = delivered_s(train_bytes, goodput, rtt_s)
                if order.deep:
                    tail_s = train_s - delivered_s(train_bytes / 2, goodput, rtt_s)
                    estimator.handle(DeepTrainAnswered(now_s, train_bytes, train_bytes / 2 / tail_s))
                else:
                    estimator.handle(TrainAnswered(now_s, rtt_s, train_bytes, rtt_s + train_s))
    return sent
