"""What people call: contexts, products of NumPy arrays, advice, calibration."""

import ctypes
import dataclasses
import functools
import math
import os
import sys
import threading
from typing import Tuple

import numpy as np

from . import _library as ks
from ._library import ArgumentError, byref

_NUMPY_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64"}


def as_pattern(pattern):
    """(a, b, c, d) from a sequence of four integers or from "a,b,c,d"."""
    sizes = pattern.split(",") if isinstance(pattern, str) else pattern
    try:
        a, b, c, d = (int(size) for size in sizes)
    except (TypeError, ValueError):
        raise ArgumentError("KS_ERR_ARGUMENT", f"pattern is {pattern!r}; valid: four sizes, (a, b, c, d)") from None
    return a, b, c, d


@functools.lru_cache(maxsize=4096)
def problem_of(pattern, batch, dtype, layout, arithmetic="f32"):
    """The problem as the library reads it, checked; remembered, since a layer asks for the same few again and again."""
    if not all(-2**63 <= size < 2**63 for size in (*pattern, batch)):
        raise ArgumentError("KS_ERR_OVERFLOW", f"pattern {pattern}, batch {batch}: not a size of 64 bits")
    problem = ks.Problem(*pattern, batch, ks.index("dtype", ks.TYPES, dtype), ks.index("layout", ks.LAYOUTS, layout),
                         ks.index("math", ks.MATHS, arithmetic))
    ks.check(ks.library.ks_problem_check(byref(problem)))
    return problem


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One kernel that could do it, with its predicted (or measured) time and an interval of 80 %."""
    kernel: str
    family: str
    time_s: float
    time_lo_s: float
    time_hi_s: float


@dataclasses.dataclass(frozen=True)
class Advice:
    """What would be taken, and why: ks_advice of ksauto.h."""
    pattern: Tuple[int, int, int, int]
    batch: int
    dtype: str
    layout: str
    math: str
    device: str
    objective: str
    path: str
    kernel: str
    source: str
    source_device: str
    candidates: Tuple[Candidate, ...]  # fastest first
    p_fused_faster: float
    expected_regret: float
    roofline_s: float
    dense_s: float

    @property
    def time_s(self):
        """The predicted time of the kernel that would be taken."""
        return next(c.time_s for c in self.candidates if c.kernel == self.kernel)


class Context:
    """What is known of one device: the library's ks_context. Any number of threads may use one at once.

    device: "cpu", "cuda:N", or the name of a known device, for advice alone. store: the file of measurements (None: the
    user's own, "": none). measure: problems never measured are measured at their first use, for measure_budget_s at most."""

    def __init__(self, device="cpu", store=None, measure=False, objective="time", measure_budget_s=0.0):
        options = ks.Options(device=device.encode(), store=None if store is None else os.fsencode(store), flags=int(measure),
                             objective=ks.index("objective", ks.OBJECTIVES, objective), measure_budget_s=measure_budget_s)
        handle = ctypes.c_void_p()
        self._handle = None
        ks.check(ks.library.ks_open(byref(handle), byref(options)))
        self._handle = handle.value
        self.device = device
        self._kept = {}

    def close(self):
        """Frees what the context owns. No other thread may be using it."""
        handle, self._handle = self._handle, None
        ks.library.ks_close(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        # When Python ends, a GPU's driver may be gone already: the memory is left to the system then.
        if getattr(self, "_handle", None) is not None and not sys.is_finalizing():
            self.close()

    @property
    def store_trouble(self):
        """Why the store could not be read, as one sentence; "" if it was."""
        why = ctypes.c_char_p()
        status = ks.library.ks_store_status(self._handle, byref(why))
        return "" if status == 0 else (why.value or b"").decode(errors="replace")

    def run(self, problem, path, x, k, y, stream=None):
        """The product by addresses. The arrays stay the caller's, and must stay alive until the stream is done."""
        if path == "auto":
            ks.check(ks.library.ks_auto_matmul(self._handle, byref(problem), x, k, y, stream))
        else:
            ks.check(ks.library.ks_matmul(self._handle, byref(problem), path.encode(), x, k, y, stream))

    def grad_weights(self, problem, x, dy, dk, stream=None):
        """The gradient of the weights, by addresses, in block order."""
        ks.check(ks.library.ks_grad_weights(self._handle, byref(problem), x, dy, dk, stream))

    def chain(self, patterns, batch, dtype="f32", layout="first", math="f32"):
        """The planned product by these factors: made at the first use, and kept."""
        return self.kept((patterns, batch, dtype, layout, math), Chain, patterns, batch, dtype, layout, math, None, self)

    def kept(self, key, make, *arguments):
        """make(*arguments), made at the first use of the key, and kept."""
        found = self._kept.get(key)
        if found is None:
            found = make(*arguments)
            if len(self._kept) >= 2048:  # a server may meet new batches for months
                self._kept.clear()
            self._kept[key] = found
        return found

    def choose(self, pattern, batch, dtype="f32", layout="first", math="f32"):
        """The name of the kernel that matmul would take."""
        name = ctypes.c_char_p()
        problem = problem_of(as_pattern(pattern), batch, dtype, layout, math)
        ks.check(ks.library.ks_choose(self._handle, byref(problem), byref(name)))
        return name.value.decode()

    def advise(self, pattern, batch, dtype="f32", layout="first", math="f32"):
        """What would be taken for this problem, and why."""
        pattern, advice = as_pattern(pattern), ks.Advice()
        problem = problem_of(pattern, batch, dtype, layout, math)
        ks.check(ks.library.ks_advise(self._handle, byref(problem), byref(advice)))
        candidates = tuple(Candidate(c.kernel.decode(), ks.FAMILIES[c.family], c.time_s, c.time_lo_s, c.time_hi_s)
                           for c in advice.candidates[:advice.candidate_count])
        return Advice(pattern, batch, dtype, layout, math, advice.device.decode(), ks.OBJECTIVES[advice.objective],
                      ks.FAMILIES[advice.path], advice.kernel.decode(), ks.SOURCES[advice.source],
                      advice.source_device.decode(), candidates, advice.p_fused_faster, advice.expected_regret,
                      advice.roofline_s, advice.dense_s)

    def matmul(self, x, k, pattern=None, layout="first", weights="block", path="auto", out=None):
        """As ksauto.matmul, in this context."""
        x, k = np.asanyarray(x), np.asanyarray(k)
        dtype = _NUMPY_TYPES.get(x.dtype.name)
        if dtype is None or not x.dtype.isnative:
            raise ArgumentError("KS_ERR_ARGUMENT", f"x is of type {x.dtype}; valid: {', '.join(_NUMPY_TYPES)}")
        if k.dtype != x.dtype:
            raise ArgumentError("KS_ERR_ARGUMENT", f"k is of type {k.dtype}, x of type {x.dtype}")
        (a, b, c, d), block = _weights(k, pattern, weights)
        first = ks.index("layout", ks.LAYOUTS, layout) == 0
        features, batch_shape = (x.shape[-1:], x.shape[:-1]) if first else (x.shape[:1], x.shape[1:])
        if x.ndim == 0 or features[0] != a * c * d:
            raise ArgumentError("KS_ERR_ARGUMENT", f"x has shape {x.shape}; its {'last' if first else 'first'} axis must be "
                                f"a*c*d = {a * c * d} for pattern {(a, b, c, d)}, layout {layout!r}")
        shape = (*batch_shape, a * b * d) if first else (a * b * d, *batch_shape)
        if out is not None and (out.shape != shape or out.dtype != x.dtype or not out.flags.c_contiguous or
                                not out.flags.writeable):
            raise ArgumentError("KS_ERR_ARGUMENT", f"out has shape {out.shape}, type {out.dtype}; it must be a writable array "
                                f"of shape {shape}, type {x.dtype}, in C order")
        turned = out is None and x.ndim == 2 and not x.flags.c_contiguous and x.flags.f_contiguous
        if turned:  # the transpose of an array in C order: the other layout, by the array as it lies
            x, y, first = x.T, np.empty(shape[::-1], x.dtype), not first
        else:
            x, y = np.ascontiguousarray(x), np.empty(shape, x.dtype) if out is None else out
        batch = math.prod(batch_shape)
        problem = problem_of((a, b, c, d), max(batch, 1), dtype, "first" if first else "last")
        if batch > 0:
            self.run(problem, path, x.ctypes.data, block.ctypes.data, y.ctypes.data)
        return y.T if turned else y


def _weights(k, pattern, weights):
    """The pattern, and the weights in block order: copied only where they do not lie so already."""
    if weights not in ("block", "abcd"):
        raise ArgumentError("KS_ERR_ARGUMENT", f"weights is {weights!r}; valid: block, abcd")
    order = "(a, d, b, c)" if weights == "block" else "(a, b, c, d)"
    block = k if weights == "block" or k.ndim != 4 else k.transpose(0, 3, 1, 2)
    if pattern is not None:
        pattern = as_pattern(pattern)
    elif block.ndim == 4:
        pattern = (block.shape[0], block.shape[2], block.shape[3], block.shape[1])
    if block.ndim != 4 or block.shape != (pattern[0], pattern[3], pattern[1], pattern[2]):
        raise ArgumentError("KS_ERR_ARGUMENT", f"k has shape {k.shape}; for pattern {pattern} and weights {weights!r} it must "
                            f"have the shape {order}")
    return pattern, np.ascontiguousarray(block)


class Chain:
    """Products by W = K_1 K_2 ... K_L, planned as one: which kernel and which layout each factor gets; the last is applied first.

    plan: the text of another chain's plan, to do it just so; None: as predicted fastest. print(chain) shows what is done."""

    def __init__(self, patterns, batch, dtype="f32", layout="first", math="f32", plan=None, context=None):
        self.patterns, self.batch = tuple(as_pattern(pattern) for pattern in patterns), batch
        self._context = context or _default("cpu")  # which must outlive the chain
        problems = (ks.Problem * len(self.patterns))(*(problem_of(p, batch, dtype, layout, math) for p in self.patterns))
        self._handle, self._first, self._dtype = None, layout == "first", dtype
        handle = ctypes.c_void_p()
        ks.check(ks.library.ks_chain_open(byref(handle), self._context._handle, problems, len(problems),
                                          None if plan is None else plan.encode()))
        self._handle = handle.value

    def __del__(self):
        if getattr(self, "_handle", None) is not None and not sys.is_finalizing():
            ks.library.ks_chain_close(self._handle)

    def __str__(self):
        return ks.library.ks_chain_describe(self._handle).decode().rstrip()

    @property
    def plan(self):
        """"KERNEL/LAYOUT" for each factor, in the order of application."""
        return ks.library.ks_chain_plan(self._handle).decode()

    @property
    def predicted_s(self):
        return ks.library.ks_chain_predicted_s(self._handle)

    @property
    def workspace_bytes(self):
        return ks.library.ks_chain_workspace_bytes(self._handle)

    def run(self, x, weights, y, stream=None, bias=None, activation=None):
        """The product by addresses; weights: those of K_1 ... K_L, in block order; bias: a value for each feature of y;
        activation: a name of _library.ACTIVATIONS."""
        epilogue = None
        if bias is not None or activation is not None:
            epilogue = byref(ks.Epilogue(1, 0, bias, ks.index("activation", ks.ACTIVATIONS, activation)))
        weights = (ctypes.c_void_p * len(weights))(*weights)
        ks.check(ks.library.ks_chain_matmul_with(self._handle, x, weights, y, epilogue, stream))

    def matmul(self, x, factors, weights="block"):
        """The product of NumPy arrays. x: (batch, features), or (features, batch) in layout "last"; factors: as k in matmul."""
        x = np.ascontiguousarray(x)
        blocks = [_weights(np.asanyarray(k), p, weights)[1] for k, p in zip(factors, self.patterns)]
        (a, b, _, d), (a_in, _, c_in, d_in) = self.patterns[0], self.patterns[-1]
        shape, made = (self.batch, a_in * c_in * d_in), (self.batch, a * b * d)
        if not self._first:
            shape, made = shape[::-1], made[::-1]
        types = {_NUMPY_TYPES.get(array.dtype.name) for array in (x, *blocks)}
        if x.shape != shape or len(factors) != len(self.patterns) or types != {self._dtype}:
            raise ArgumentError("KS_ERR_ARGUMENT", f"the chain takes x of shape {shape} and {len(self.patterns)} factors, all of "
                                f"type {self._dtype}; x has shape {x.shape}, factors are {len(factors)}")
        y = np.empty(made, x.dtype)
        self.run(x.ctypes.data, [block.ctypes.data for block in blocks], y.ctypes.data)
        return y


_contexts = {}
_contexts_lock = threading.Lock()


def context(device="cpu"):
    """The context that the functions of this module use for a device; opened at the first use, by every thread shared."""
    found = _contexts.get(device)
    if found is None:
        with _contexts_lock:
            found = _contexts.get(device)
            if found is None:
                found = _contexts[device] = Context(device)
    return found


_default = context  # for who has a parameter of that name


def matmul(x, k, pattern=None, layout="first", weights="block", path="auto", out=None):
    """Y = X * transpose(K), by the path and kernel predicted fastest on this CPU.

    x        float32, float16, float64 or (ml_dtypes') bfloat16. layout "first": (..., a*c*d), any batch axes before the
             features; "last": (a*c*d, ...), the batch axes behind them. The result has a*b*d in place of a*c*d.
    k        of x's type; weights "block": (a, d, b, c), "abcd": (a, b, c, d), as the paper and PyTorch code have it.
    pattern  (a, b, c, d); None: from k's shape.
    path     "auto", "fused", "bmm" (the fastest kernel of that family), or a kernel's name.
    out      an array in C order that the result is written to; must not overlap x or k.

    Nothing is copied where x lies in C order (or is the transpose of such an array and out is None) and k in block order,
    be it by way of strides. Other Python threads run meanwhile. Raises ArgumentError, OutOfMemory or Error."""
    return context().matmul(x, k, pattern, layout, weights, path, out)


def advise(pattern, batch, dtype="f32", layout="first", math="f32", device="cpu"):
    """What matmul would take for this problem, and why: an Advice. device: also "cuda:N", or any known device's name."""
    return context(device).advise(pattern, batch, dtype, layout, math)


@dataclasses.dataclass(frozen=True)
class Regret:
    """Time lost on fresh problems, as a share of the best kernel's time."""
    problems: int
    mean: float
    median: float
    p95: float
    max: float


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """How well the advisor chose on problems that it had never seen, for one type and layout, beside the static policies."""
    dtype: str
    layout: str
    advisor: Regret
    always_fused: Regret
    always_bmm: Regret
    ratio: Regret
    agreement: float
    measured: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a calibration measured."""
    device: str
    elapsed_s: float
    copy_bytes_per_s: float
    gemm_flops_per_s: dict
    measured: int
    canaries: int  # measured again because a driver, a BLAS or a kernel has changed; and what became of the kernels' rows:
    kept: int
    rescaled: int
    set_aside: int
    acceptance: Tuple[Acceptance, ...]


def calibrate(device="cpu", budget_s=60.0, target_regret=0.0, dtypes=None, layouts=None, store=None, alone=False, seed=0,
              progress=None):
    """Measures the device, fits the predictor, and returns a Calibration. Later calls use what it found.

    dtypes, layouts: names; None: float32 (on GPUs also the halves), both layouts. progress: called now and then with a
    dictionary of phase, measured, stored, elapsed_s, left_s and expected_regret; returning False ends the run, which raises
    Error with status KS_ERR_INTERRUPTED. What was measured is kept then, as it is after Ctrl-C."""
    raised = []

    def report(_, state):
        try:
            s = state.contents
            return progress is None or progress({
                "phase": s.phase.decode(), "measured": s.measured, "stored": s.stored, "elapsed_s": s.elapsed_s,
                "left_s": s.left_s, "expected_regret": s.expected_regret}) is not False
        except BaseException as error:  # ctypes would print it and go on; KeyboardInterrupt comes this way, too
            raised.append(error)
            return False

    callback = ks.ProgressFunction(report)
    options = ks.CalibrateOptions(
        device=device.encode(), store=None if store is None else os.fsencode(store), budget_s=budget_s,
        target_regret=target_regret, types=sum(1 << ks.index("dtype", ks.TYPES, t) for t in dtypes or ()),
        layouts=sum(1 << ks.index("layout", ks.LAYOUTS, l) for l in layouts or ()), seed=seed, alone=alone, progress=callback)
    result = ks.CalibrateReport()
    try:
        status = ks.calib_library().ks_calibrate(byref(options), byref(result))
    finally:
        with _contexts_lock:
            _contexts.clear()  # each is closed when its last user is done with it
    if raised:
        raise raised[0]
    ks.check(status)

    def regret(r):
        return Regret(r.problems, r.mean, r.median, r.p95, r.max)

    return Calibration(
        result.device.decode(), result.elapsed_s, result.copy_bytes_per_s,
        {name: rate for name, rate in zip(ks.TYPES, result.gemm_flops_per_s) if rate > 0}, result.measured,
        result.canaries, result.kept, result.rescaled, result.set_aside,
        tuple(Acceptance(ks.TYPES[a.type], ks.LAYOUTS[a.layout], regret(a.advisor), regret(a.always_fused),
                         regret(a.always_bmm), regret(a.ratio), a.agreement, a.measured)
              for a in result.acceptance[:result.count]))
