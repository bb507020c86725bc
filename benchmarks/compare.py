"""Two configurations in turn, A B A B ..., each time in a fresh process, and the ratios of the pairs.

What else runs on a machine disturbs neighbours in time alike: the ratio of a pair repeats where seconds do not.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness import Measurement


@dataclass(frozen=True)
class Comparison:
    """Measurements of A and of B, in pairs."""

    pairs: list[tuple[Measurement, Measurement]]

    @property
    def ratios(self) -> list[float]:
        """Seconds of A divided by those of B for every pair; above 1 where B is faster."""
        return [a.median / b.median for a, b in self.pairs]

    @property
    def memory_ratio(self) -> float:
        """The median ratio of A's peak memory to B's, both beyond the imports."""
        return statistics.median(a.own_mib / b.own_mib for a, b in self.pairs)

    def medians(self, what: Callable[[Measurement], float]) -> tuple[float, float]:
        """Returns the medians of A and of B."""
        return tuple(statistics.median(what(pair[side]) for pair in self.pairs) for side in (0, 1))


def in_turn(measure_a: Callable[[], Measurement], measure_b: Callable[[], Measurement], rounds: int) -> Comparison:
    """Measures A B A B ..., ``rounds`` times each."""
    return Comparison([(measure_a(), measure_b()) for _ in range(rounds)])


def text(comparisons: dict[str, Comparison]) -> str:
    """The table in print, a row for every task."""
    from tabulate import tabulate

    rows = []
    for name, comparison in comparisons.items():
        ratios = comparison.ratios
        seconds, first = comparison.medians(lambda m: m.median), comparison.medians(lambda m: m.first)
        memory = comparison.medians(lambda m: m.own_mib)
        rows.append(
            {
                "task": name,
                "A, s": f"{seconds[0]:.4f}",
                "B, s": f"{seconds[1]:.4f}",
                "A / B": f"{statistics.median(ratios):.2f}",
                "lowest..highest": f"{min(ratios):.2f}..{max(ratios):.2f}",
                "first call A, s": f"{first[0]:.2f}",
                "B, s ": f"{first[1]:.2f}",
                "beyond imports A, MiB": f"{memory[0]:.0f}",
                "B, MiB": f"{memory[1]:.0f}",
                "A / B ": f"{comparison.memory_ratio:.2f}",
            }
        )
    return tabulate(rows, headers="keys", disable_numparse=True, colalign=["left"] + ["right"] * 9)
