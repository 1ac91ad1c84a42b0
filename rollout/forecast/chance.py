"""Binomial counts from a seeded stream, exact and fast enough for millions."""

from random import Random

FEW = 30.0  # up to so many expected successes, counting them one by one is the fastest way


def binomial(random: Random, trials: int, share: float) -> int:
    """Return how many of the trials succeed when each does with probability `share`.

    Exact, no normal approximation: tests live in the tails. Of n uniform numbers the k-th smallest is
    Beta(k, n + 1 - k); drawing the middle one halves the trials, until few successes are left to expect.
    """
    if share > 0.5:
        return trials - binomial(random, trials, 1 - share)
    won = 0
    while trials * share > FEW:
        middle = trials // 2 + 1
        at = random.betavariate(middle, trials + 1 - middle)
        if at > share:
            trials, share = middle - 1, share / at
        else:
            won, trials, share = won + middle, trials - middle, (share - at) / (1 - at)
        if share > 0.5:
            return won + binomial(random, trials, share)
    return won + _inverted(random, trials, share)


def _inverted(random: Random, trials: int, share: float) -> int:
    """The smallest count whose cumulated probability is above a uniform number."""
    if trials <= 0 or share <= 0:
        return 0
    left, odds = random.random(), share / (1 - share)
    count, chance = 0, (1 - share) ** trials
    while left >= chance and count < trials:
        left -= chance
        count += 1
        chance *= odds * (trials - count + 1) / count
    return count


def arrivals(random: Random, mean: float) -> int:
    """Return how many requests come by in a time that sees `mean` of them: Poisson, as a binomial of rare events."""
    trials = 1000 * (int(mean) + 1)
    return binomial(random, trials, mean / trials)
