"""One learner, and the band shared among several, compiled."""

from __future__ import annotations

import math

import numpy as np

from edge_gym.runtime.compiling import compiled

ROUNDING = 1e-9
"""Samples or updates by which rounding may have lowered what a learner can do."""


MOST_STEPS = 100


_MOST_SEARCHES = 300
"""Searches end by themselves, but where magnitudes are such that rounding moves them."""
"""Steps of a search, as a safeguard: few take more than ten."""


_FEW_STEPS = 8
"""Steps after which a search for a band gives way to bisection."""


_SMALL_STEP = 1e-12
"""Relative change of a band that is not worth another step."""


_DIFFERENCE = 1e-4
"""Relative change of a band for numerical derivatives."""


_LEAST_CURVATURE = 0.1
"""Least -dln(D')/dln(w) that a step trusts."""


@compiled()
def copy_values(values, target):  # type: ignore[no-untyped-def]
    """Copy values; the compiler takes seconds for an assignment to a slice."""
    for k in range(len(values)):
        target[k] = values[k]


@compiled()
def slope_of(x):  # type: ignore[no-untyped-def]
    """Return x·eˣ - eˣ + 1: g/w times the watts that a shorter upload costs per second saved."""
    if x < 0.03:
        return x * x * (1 / 2 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x / 840)))))
    return x * math.exp(x) - math.expm1(x)


@compiled()
def capacity_and_slopes(learner, updates, band):  # type: ignore[no-untyped-def]
    """Return D(τ, w) without regard to n, and its derivatives by w and by τ.

    x is ln(1 + p·g/w), v is 1/f. ``price`` and ``worth`` are the samples that one more second and
    one more joule are worth.
    """
    nats, gain, power, cpu = learner.nats, learner.gain, learner.power, learner.cpu
    kappa, limit, cycle = learner.capacitance, learner.limit, learner.cycle_s
    work = learner.cycles * updates
    model_s, sample_s = learner.model / band, learner.sample / band
    most = math.log1p(power * gain / band)
    upload = nats / (most * band)
    left = cycle - model_s - upload
    if left <= 0:
        return 0.0, 0.0, 0.0
    snr = power * gain / band
    # What a wider band takes off the upload's seconds at full power.
    upload_change = upload * (1 - snr / (1 + snr) / most) / band
    samples = left / (sample_s + work / cpu)
    joules = limit - power * upload
    if kappa * work * samples * cpu * cpu <= joules:
        price = 1 / (sample_s + work / cpu)
        change = price * ((sample_s * samples + model_s) / band + upload_change)
        return samples, change, -price * samples / cpu * learner.cycles
    clock = (band * slope_of(most) / (2 * kappa * gain)) ** (1 / 3)
    ratio = sample_s / work
    if joules > 0 and clock < cpu and joules / (kappa * clock**2) * (1 / clock + ratio) > left:
        # Less power saves less than the slower clock that makes up for it.
        volume = left * kappa / joules
        v = volume ** (1 / 3)
        if ratio > 0:
            v = min(v, math.sqrt(volume / ratio))
        step = v
        for _ in range(_MOST_SEARCHES):
            step = (v * v * (v + ratio) - volume) / (v * (3 * v + 2 * ratio))
            v -= step
            if not step > 1e-14 * v:
                break
        clock = 1 / v
        samples = joules * v * v / (kappa * work)
        worth = 1 / (2 * kappa * clock**3 * (sample_s + work * v) + kappa * work * clock**2)
        price = 2 * kappa * clock**3 * worth
        change = price * ((sample_s * samples + model_s) / band + upload_change)
        change += worth * power * upload_change
        return samples, change, -(price * v + worth * kappa * clock**2) * samples * learner.cycles
    low, high = nats / (band * (cycle - model_s)), most
    unit = nats / gain
    if limit <= unit * math.expm1(low) / low:
        return 0.0, 0.0, 0.0
    x = high
    for _ in range(_MOST_SEARCHES):
        slope = slope_of(x)
        joules = limit - unit * math.expm1(x) / x
        clock = (band * slope / (2 * kappa * gain)) ** (1 / 3)
        growth = x * math.exp(x) / (3 * slope)
        if clock >= cpu:
            clock, growth = cpu, 0.0
        cycles = joules / (kappa * clock**2)
        upload = nats / (x * band)
        spent = cycles * (1 / clock + ratio) + upload + model_s
        if spent > cycle:
            low = x
        else:
            high = x
        following = 0.0
        if joules > 0:
            # Newton's method on logarithms, of which all terms are nearly linear.
            fall = (unit * slope / (x * kappa * clock**2) + 2 * cycles * growth * x) * (
                1 / clock + ratio
            )
            fall += cycles * growth * x / clock + upload
            step = math.log(spent / cycle) * spent / fall
            if abs(step) < 3:
                following = x * math.exp(step)
        if abs(following - x) <= 1e-13 * x or high - low <= 1e-15 * high:
            break
        x = following if low < following < high else math.sqrt(low * high)
    samples = cycles / work
    watts = band * slope / gain
    worth = 1 / (watts * (sample_s + work / clock) + kappa * work * clock**2)
    price = worth * watts
    change = price / band * (cycle - cycles / clock)
    return samples, change, -(price / clock + worth * kappa * clock**2) * samples * learner.cycles


@compiled()
def least_band(learner, updates, samples, guess, most):  # type: ignore[no-untyped-def]
    """Return the least band in which D(τ, w) is at least ``samples``; infinite beyond ``most``."""
    if capacity_and_slopes(learner, updates, most)[0] < samples:
        return np.inf
    # Nothing but the downlink would take the whole cycle there.
    low, high = (learner.model + learner.sample * samples) / learner.cycle_s, most
    band = min(max(guess, low), high)
    for _ in range(_MOST_SEARCHES):
        found, change, _ = capacity_and_slopes(learner, updates, band)
        if found < samples:
            low = band
        else:
            high = band
        following = 0.0
        if found > 0:
            step = math.log(samples / found) * found / (change * band)
            if abs(step) < 5:
                following = band * math.exp(step)
        if abs(following - band) <= 1e-12 * band or high - low <= 1e-14 * high:
            break
        band = following if low < following < high else math.sqrt(low * high)
    # What is returned suffices in floating point too.
    step = 1e-15
    while band < high and capacity_and_slopes(learner, updates, band)[0] < samples:
        band = min(band * (1 + step), high)
        step *= 4
    return band


@compiled()
def _tangent(learner, updates, low, high):  # type: ignore[no-untyped-def]
    """Return where the concave hull of D leaves its chord from ``low``, and the chord's slope."""
    first, price, _ = capacity_and_slopes(learner, updates, low)
    near = low * (1 + _DIFFERENCE)
    if near >= high or capacity_and_slopes(learner, updates, near)[1] <= price * (1 + ROUNDING):
        return low, price
    left, right = low, high
    for _ in range(_MOST_SEARCHES):
        if not right > left * (1 + ROUNDING):
            break
        middle = math.sqrt(left * right)
        found, price, _ = capacity_and_slopes(learner, updates, middle)
        if price * (middle - low) > found - first:
            left = middle
        else:
            right = middle
    return right, (capacity_and_slopes(learner, updates, right)[0] - first) / (right - low)


@compiled()
def _band_at(learner, updates, price, guess, slope, left, right):  # type: ignore[no-untyped-def]
    """Return the band at which D' falls to ``price``, and the slope of ln(D') by ln(w) there.

    D' falls at once where energy begins to bind: also return from what and to what.
    """
    above = below = price
    band, last, gap = min(max(guess, left), right), 0.0, 0.0
    for i in range(MOST_STEPS):
        before, gap = gap, math.log(capacity_and_slopes(learner, updates, band)[1] / price)
        if gap >= 0:
            left, above = band, price * math.exp(gap)
        else:
            right, below = band, price * math.exp(gap)
        if i > 0 and gap != before:
            slope = min((gap - before) / math.log(band / last), -_LEAST_CURVATURE)
        last = band
        following = band * math.exp(min(max(-gap / slope, -2.0), 2.0))
        if abs(following - band) <= _SMALL_STEP * band:
            return band, slope, price, price
        if right <= left * (1 + _SMALL_STEP):
            break
        if i >= _FEW_STEPS or not left < following < right:
            following = math.sqrt(left * right)
        band = following
    return left, slope, above, below


@compiled()
def share_band(learners, updates, low, high, band, shares):  # type: ignore[no-untyped-def]
    """Share the band so that ΣD_k(τ_k, w_k) is largest, guessing from ``shares``; return the sum.

    All D' are equal, or at a bound of theirs, where Newton's method on logarithms finds that the
    bands add up.
    """
    n = len(learners)
    room = 0.0
    if high.sum() <= band:
        stretch = band / high.sum()
        for k in range(n):
            shares[k] = high[k] * stretch
            room += min(
                capacity_and_slopes(learners[k], updates[k], shares[k])[0], learners[k].samples
            )
        return room
    start, top, bottom = np.empty(n), np.empty(n), np.empty(n)
    slope, corner = np.full(n, -1.5), np.empty(n)
    above, below = np.zeros(n), np.zeros(n)
    wide, narrow = high.copy(), low.copy()
    z, left, right = 0.0, np.inf, -np.inf
    for k in range(n):
        shares[k] = min(max(shares[k], low[k]), high[k])
        start[k], top[k] = _tangent(learners[k], updates[k], low[k], high[k])
        bottom[k] = capacity_and_slopes(learners[k], updates[k], high[k])[1]
        z += math.log(capacity_and_slopes(learners[k], updates[k], shares[k])[1]) / n
        left, right = min(left, math.log(bottom[k])), max(right, math.log(top[k]))
    z = min(max(z, left), right)
    for _ in range(_MOST_SEARCHES):
        price, change = math.exp(z), 0.0
        for k in range(n):
            if price > top[k]:
                shares[k] = low[k]
            elif price <= bottom[k] or start[k] == high[k]:
                shares[k] = high[k]
            elif below[k] < price <= above[k]:
                shares[k] = corner[k]
            else:
                shares[k], slope[k], most, least = _band_at(
                    learners[k], updates[k], price, shares[k], slope[k], start[k], high[k]
                )
                if most > least:
                    corner[k], above[k], below[k] = shares[k], most, least
                else:
                    change += shares[k] / slope[k]
        total = shares.sum()
        if total <= band:
            right = z
            copy_values(shares, narrow)
        else:
            left = z
            copy_values(shares, wide)
        following = z
        if change < 0:
            following += math.log(band / total) * total / change
        if abs(total - band) <= _SMALL_STEP * band or right - left <= _SMALL_STEP:
            break
        z = following if left < following < right else (left + right) / 2
    # Beyond rounding, the two differ where one learner's D is not concave.
    spare = band - narrow.sum()
    for k in range(n):
        more = min(max(wide[k] - narrow[k], 0.0), spare)
        shares[k] = narrow[k] + more
        spare -= more
        room += min(capacity_and_slopes(learners[k], updates[k], shares[k])[0], learners[k].samples)
    return room


@compiled()
def members_of(learners, taking_part):  # type: ignore[no-untyped-def]
    """Return the places of those who take part, and what kernels need of them."""
    places = np.flatnonzero(taking_part)
    members = np.empty(len(places), learners.dtype)
    for j in range(len(places)):
        members[j] = learners[places[j]]
    return places, members


@compiled()
def band_bounds(learners, updates, least, band, low, high):  # type: ignore[no-untyped-def]
    """Set the bands for d_l and for n_k samples from guesses; return the sum of the former."""
    for k in range(len(learners)):
        low[k] = least_band(learners[k], updates[k], least, low[k], band)
        if learners[k].samples < np.inf:
            full = least_band(learners[k], updates[k], learners[k].samples, high[k], band)
            high[k] = max(min(full, band), low[k])
    return low.sum()


@compiled()
def sample_fall(learners, updates, low, high, shares):  # type: ignore[no-untyped-def]
    """Return by how much ΣD falls with a common τ when the band is shared anew; 0 if unknown."""
    loss = price = free = 0.0
    for k in range(len(learners)):
        _, by_band, by_updates = capacity_and_slopes(learners[k], updates[k], shares[k])
        # A learner at a bound takes more band for the same D.
        loss -= by_updates / by_band
        if low[k] < shares[k] < high[k]:
            price += by_band
            free += 1
    return loss * price / free if free else 0.0


@compiled()
def _price_of_one(learner, updates, samples, need, band):  # type: ignore[no-untyped-def]
    """Return the band that one sample more takes."""
    if samples + 1 > learner.samples:
        return np.inf
    return least_band(learner, updates, samples + 1, need, band) - need


@compiled()
def whole_samples(learners, updates, goal, band, shares):  # type: ignore[no-untyped-def]
    """Return how many whole samples fit, up to ``goal``; change shares where that makes more fit.

    What whole samples leave of the shares goes to those that need the least band for one more.
    """
    n = len(learners)
    samples, need, price = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        room = capacity_and_slopes(learners[k], updates[k], shares[k])[0] + ROUNDING
        samples[k] = math.floor(min(room, learners[k].samples))
    held = samples.sum()
    if held >= goal:
        return goal
    for k in range(n):
        need[k] = min(least_band(learners[k], updates[k], samples[k], shares[k], band), shares[k])
        price[k] = _price_of_one(learners[k], updates[k], samples[k], need[k], band)
    while held < goal:
        cheapest = price.argmin()
        if not price[cheapest] <= band - need.sum():
            break
        need[cheapest] += price[cheapest]
        samples[cheapest] += 1
        held += 1
        price[cheapest] = _price_of_one(
            learners[cheapest], updates[cheapest], samples[cheapest], need[cheapest], band
        )
    stretch = band / need.sum()
    for k in range(n):
        shares[k] = need[k] * stretch
    return held


@compiled()
def fit_bands(learners, updates, least, goal, band, low, high, shares):  # type: ignore[no-untyped-def]
    """Share the band for given updates; return whether the samples fit."""
    if band_bounds(learners, updates, least, band, low, high) > band:
        return False
    room = share_band(learners, updates, low, high, band, shares)
    return room >= goal - ROUNDING and whole_samples(learners, updates, goal, band, shares) >= goal


@compiled()
def bands_for(learners, samples, updates, band, found):  # type: ignore[no-untyped-def]
    """Set the least bands for tasks; return whether they add up to no more than the band."""
    total = 0.0
    for k in range(len(learners)):
        found[k] = least_band(learners[k], updates, samples[k], found[k], band)
        total += found[k]
        if total > band:
            return False
    return True


@compiled()
def raise_level(need, base, top, band, level):  # type: ignore[no-untyped-def]
    """Raise learners from ``base`` to at most ``top`` updates, the cheapest first; return the sum.

    That is exact where the band rises faster and faster with the updates.
    """
    level[:] = base
    spare = band - need[:, base].sum()
    while True:
        cheapest, price = -1, np.inf
        for k in range(len(level)):
            if level[k] < top:
                more = need[k, level[k] + 1] - need[k, level[k]]
                if more < price:
                    cheapest, price = k, more
        if not price <= spare:
            return level.sum()
        level[cheapest] += 1
        spare -= price
