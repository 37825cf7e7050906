"""Multiply by Kronecker-sparse matrices, the structure behind Butterfly and Monarch layers, the fastest way this machine has.

    import ksauto
    y = ksauto.matmul(x, k, (6, 64, 64, 1))      # y = x * transpose(K), NumPy arrays
    print(ksauto.advise((6, 64, 64, 1), batch=25088).kernel)

ksauto.torch has the layer for PyTorch, ksauto.sharded the same over several devices."""

from ._context import (Acceptance, Advice, Calibration, Candidate, Chain, Context, Regret, advise, calibrate, context, matmul)
from ._factorise import Factorisation, dense, factorise
from ._library import VERSION as __version__
from ._library import ArgumentError, Error, OutOfMemory

__all__ = ["Acceptance", "Advice", "ArgumentError", "Calibration", "Candidate", "Chain", "Context", "Error", "Factorisation",
           "OutOfMemory", "Regret", "advise", "calibrate", "context", "dense", "factorise", "matmul"]
