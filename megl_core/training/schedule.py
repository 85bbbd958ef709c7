"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math


def one_cycle(step: int, total: int, peak: float, warmup: float) -> float:
    """Cosine from peak / 25 up to `peak` over the first `warmup` share of `total` steps, then down to 0.

    Smith and Topin, "Super-Convergence", 2018.
    """
    rising = warmup * total
    low = peak / 25
    if step < rising:
        return low + (peak - low) * (1 - math.cos(math.pi * step / rising)) / 2
    done = (step - rising) / max(1.0, total - rising)
    return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2
