"""From a dense matrix to Kronecker-sparse factors, by truncated singular value decompositions of its parts.

Two factors: the columns of K_1 fall into classes, and so do the rows of K_2, by where they may be non-zero, and each pair of
classes makes one part of the product, b_1 x c_2 numbers that no other pair touches. So the best product of the two patterns has
in each part the best matrix of rank r, r being how many inner indices the pair shares: least squares, by one decomposition each.

Longer chains are cut in the middle, hierarchically (Q.-T. Le, L. Zheng, E. Riccietti, R. Gribonval, "Fast learning of fast
transforms, with guarantees", ICASSP 2022, and its extensions to such patterns): the left and the right half are each of one
pattern again where the chain is "chainable". That is exact where a product of the patterns is exact (Hadamard and Fourier
transforms, Monarch matrices), and else near the best, without its being the best for three and more."""

import dataclasses
from typing import List

import numpy as np

from . import _context
from ._library import ArgumentError


@dataclasses.dataclass(frozen=True)
class Factorisation:
    """factors: K_1 ... K_L, each of shape (a, b, c, d). error: ||W - K_1 ... K_L|| / ||W||, Frobenius norms."""
    factors: List[np.ndarray]
    error: float


def dense(factor):
    """The matrix of (a*b*d) x (a*c*d) that a factor of shape (a, b, c, d) stands for."""
    factor = np.asarray(factor)
    a, b, c, d = factor.shape
    matrix = np.zeros((a, b, d, a, c, d), factor.dtype)
    i, l = np.arange(a)[:, None], np.arange(d)[None, :]
    matrix[i, :, l, i, :, l] = factor.transpose(0, 3, 1, 2)
    return matrix.reshape(a * b * d, a * c * d)


def _product_pattern(left, right):
    """The pattern of all products of two patterns; None where these are no Kronecker-sparse matrices."""
    (a, b, c, d), (a2, b2, c2, d2) = left, right
    if a2 % a or d % d2 or (a * c) % a2 or a * c // a2 * d != b2 * d2:
        return None
    return a, b * (d // d2), a2 // a * c2, d2


def _pattern_of(patterns):
    product = patterns[0]
    for pattern in patterns[1:]:
        product = _product_pattern(product, pattern)
        if product is None:
            raise ArgumentError("KS_ERR_UNSUPPORTED", f"the patterns {patterns} are not chainable: some of their products are no "
                                "Kronecker-sparse matrices, so more than two factors cannot be told apart")
    return product


def _pair(matrix, left, right):
    """The best two factors, by least squares."""
    (a, b, c, d), (a2, b2, c2, d2) = left, right
    parts = matrix.reshape(a, b, d, a2, c2, d2)
    inner = np.arange(a * c * d)
    i, k, l = np.unravel_index(inner, (a, c, d))
    i2, j2, l2 = np.unravel_index(inner, (a2, b2, d2))
    order = np.lexsort((l2, i2, l, i))
    starts = np.flatnonzero(np.diff(np.ravel_multi_index((i, l, i2, l2), (a, d, a2, d2))[order], prepend=-1))
    sizes = np.diff(starts, append=inner.size)
    first, second = np.zeros(left, matrix.dtype), np.zeros(right, matrix.dtype)
    for size in np.unique(sizes):
        members = order[starts[sizes == size][:, None] + np.arange(size)]  # (classes, inner indices of each)
        one = members[:, 0]
        u, s, v = np.linalg.svd(parts[i[one], :, l[one], i2[one], :, l2[one]], full_matrices=False)
        root = np.sqrt(s)
        for t in range(min(size, s.shape[1])):
            q = members[:, t]
            first[i[q], :, k[q], l[q]] = u[:, :, t] * root[:, t, None]
            second[i2[q], j2[q], :, l2[q]] = v[:, t, :] * root[:, t, None]
    return first, second


def _chain(matrix, patterns):
    if len(patterns) == 1:
        a, b, c, d = patterns[0]
        i, l = np.arange(a)[:, None], np.arange(d)[None, :]
        return [matrix.reshape(a, b, d, a, c, d)[i, :, l, i, :, l].transpose(0, 2, 3, 1).copy()]
    if len(patterns) == 2:
        return list(_pair(matrix, *patterns))
    middle = len(patterns) // 2
    left, right = patterns[:middle], patterns[middle:]
    first, second = _pair(matrix, _pattern_of(left), _pattern_of(right))
    return _chain(dense(first), left) + _chain(dense(second), right)


def factorise(matrix, patterns):
    """Factors K_1 ... K_L of the given patterns whose product is near the matrix: a Factorisation.

    Exact, to rounding, where the matrix is such a product; for one or two factors the best there is; for more the patterns must
    be chainable, as those of butterflies and of Monarch matrices are. Computed in float64 (complex128 for complex matrices)."""
    patterns = [_context.as_pattern(pattern) for pattern in patterns]
    matrix = np.asarray(matrix)
    matrix = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    if not patterns or min(min(pattern) for pattern in patterns) < 1:
        raise ArgumentError("KS_ERR_ARGUMENT", f"patterns are {patterns}; valid: one or more, of sizes of at least 1")
    made = [a * b * d for a, b, _, d in patterns]
    taken = [a * c * d for a, _, c, d in patterns]
    if matrix.shape != (made[0], taken[-1]) or made[1:] != taken[:-1]:
        raise ArgumentError("KS_ERR_ARGUMENT", f"the matrix has shape {matrix.shape}; the patterns make {made} and take {taken} "
                            "features, and neighbours must fit")
    if len(patterns) > 2:
        _pattern_of(patterns)
    factors = _chain(matrix, patterns)
    product = dense(factors[-1])
    for factor in reversed(factors[:-1]):
        product = dense(factor) @ product
    norm = np.linalg.norm(matrix)
    return Factorisation(factors, float(np.linalg.norm(matrix - product) / norm) if norm > 0 else 0.0)
