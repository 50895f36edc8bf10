"""The field's measures of continual learning, from accuracies of every task after every task.

Lopez-Paz and Ranzato, NeurIPS 2017, arXiv:1706.08840; Chaudhry et al., ECCV 2018, arXiv:1801.10112.
"""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]
"""Row i: accuracy on every task after the i-th was learned."""


def average_accuracy(matrix: Matrix) -> float:
    """Mean accuracy over all tasks, at the end."""
    return sum(matrix[-1]) / len(matrix[-1])


def forgetting(matrix: Matrix) -> float:
    """Mean fall from the best accuracy that a task ever had; the last task takes no part."""
    old = range(len(matrix) - 1)
    return sum(max(row[j] for row in matrix[j:-1]) - matrix[-1][j] for j in old) / max(len(old), 1)


def backward_transfer(matrix: Matrix) -> float:
    """Mean change of a task's accuracy since it was learned; negative where it was forgotten."""
    old = range(len(matrix) - 1)
    return sum(matrix[-1][j] - matrix[j][j] for j in old) / max(len(old), 1)
