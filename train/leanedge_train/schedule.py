"""What a training run does when: lengths, curriculum, learning rate, quantised finish."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Everything is a function of the share of the run that is done, 0 .. 1."""

    # (from, tokens of a row): the last one whose start is reached.
    lengths: tuple[tuple[float, int], ...] = ((0.0, 1024), (0.2, 4096), (0.88, 8192))
    # The curriculum is over here. The learning rate stays high until the model retrieves.
    level_full: float = 0.12
    warm_up: float = 0.01
    decay_from: float = 0.5
    rate_floor: float = 0.02
    # Q4_0 weights in the forward pass from here on.
    quantised_from: float = 0.75

    def length(self, done: float) -> int:
        """Tokens of a row."""
        return [tokens for start, tokens in self.lengths if done >= start][-1]

    def level(self, done: float) -> float:
        """Difficulty of tasks."""
        return min(1.0, done / self.level_full)

    def rate(self, done: float) -> float:
        """Factor of the learning rates: up, flat, down along a line."""
        if done < self.warm_up:
            return max(self.rate_floor, done / self.warm_up)
        if done < self.decay_from:
            return 1.0
        return max(self.rate_floor, 1 - (done - self.decay_from) / (1 - self.decay_from))

    def mean_cost(self, begin: float) -> float:
        """Mean of length_cost over the rest of the run."""
        points = [begin + (1 - begin) * (index + 0.5) / 200 for index in range(200)]
        return sum(length_cost(self.length(point)) for point in points) / len(points)

    def quantised(self, done: float) -> bool:
        """Whether the forward pass takes Q4_0 weights."""
        return done >= self.quantised_from


# Rows of this many tokens take twice the time a token that short ones take (measured on an H100:
# 1.49M tokens/s at 1,024 and 1.14M at 4,096).
COST_DOUBLES_AT = 8600


def length_cost(length: int) -> float:
    """Relative time of a token in rows of this length."""
    return 1 + length / COST_DOUBLES_AT


def parse_lengths(text: str) -> tuple[tuple[float, int], ...]:
    """`0:1024,0.2:4096` as the field `lengths`."""
    parts = [part.split(":") for part in text.split(",")]
    lengths = tuple((float(start), int(tokens)) for start, tokens in parts)
    if lengths[0][0] != 0 or list(lengths) != sorted(lengths):
        raise ValueError(f"lengths {text!r}: must begin at 0 and increase")
    return lengths
