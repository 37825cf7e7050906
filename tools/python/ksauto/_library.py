"""libksauto, found and described to ctypes: structs and functions as advisor/ksauto.h has them, statuses as exceptions.

The package holds no compiled code, so one wheel serves every Python and every build of the library, with or without CUDA.
The library is the one that KSAUTO_LIBRARY names, else the loader's (LD_LIBRARY_PATH, ldconfig), else the newest of those that
were built in the checkout that this package lies in. ctypes lets other Python threads run while a call lasts."""

import ctypes
import os
import pathlib
import threading
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_bool, c_char, c_char_p, c_double, c_int, c_int64, c_size_t,
                    c_uint, c_uint64, c_void_p)

VERSION = "0.1.0"
SONAME = "libksauto.so.0"

TYPES = ("f32", "f16", "bf16", "f64")
LAYOUTS = ("first", "last")
MATHS = ("f32", "tf32")
FAMILIES = ("fused", "bmm", "reference")
OBJECTIVES = ("time", "energy")
ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu")
SOURCES = ("measurement", "model", "seeds", "cost-model", "decisions")
STATUSES = ("KS_OK", "KS_ERR_ARGUMENT", "KS_ERR_OVERFLOW", "KS_ERR_PARSE", "KS_ERR_UNSUPPORTED", "KS_ERR_DEVICE",
            "KS_ERR_MEMORY", "KS_ERR_STORE", "KS_ERR_IO", "KS_ERR_WRONG_RESULT", "KS_ERR_NO_DATA", "KS_ERR_INTERRUPTED",
            "KS_ERR_INTERNAL")
NAME_BYTES, DEVICE_BYTES, MAX_CANDIDATES = 64, 128, 16


class Error(RuntimeError):
    """A call of the library failed. The text is the library's message; status is its name, such as "KS_ERR_DEVICE"."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class ArgumentError(Error, ValueError):
    """A value that is not allowed: KS_ERR_ARGUMENT, KS_ERR_OVERFLOW, KS_ERR_PARSE."""


class OutOfMemory(Error, MemoryError):
    """KS_ERR_MEMORY."""


EXCEPTIONS = {"KS_ERR_ARGUMENT": ArgumentError, "KS_ERR_OVERFLOW": ArgumentError, "KS_ERR_PARSE": ArgumentError,
              "KS_ERR_MEMORY": OutOfMemory}


class Problem(Structure):
    _fields_ = [("a", c_int64), ("b", c_int64), ("c", c_int64), ("d", c_int64), ("batch", c_int64), ("type", c_int),
                ("layout", c_int), ("math", c_int)]


class Options(Structure):
    _fields_ = [("device", c_char_p), ("store", c_char_p), ("flags", c_uint), ("objective", c_int),
                ("measure_budget_s", c_double), ("decisions", c_char_p)]


class Candidate(Structure):
    _fields_ = [("kernel", c_char * NAME_BYTES), ("family", c_int), ("time_s", c_double), ("time_lo_s", c_double),
                ("time_hi_s", c_double)]


class Advice(Structure):
    _fields_ = [("problem", Problem), ("device", c_char * DEVICE_BYTES), ("objective", c_int), ("path", c_int),
                ("kernel", c_char * NAME_BYTES), ("source", c_int), ("source_device", c_char * DEVICE_BYTES),
                ("candidate_count", c_int), ("candidates", Candidate * MAX_CANDIDATES), ("p_fused_faster", c_double),
                ("expected_regret", c_double), ("roofline_s", c_double), ("dense_s", c_double)]


class Epilogue(Structure):
    _fields_ = [("alpha", c_double), ("beta", c_double), ("bias", c_void_p), ("activation", c_int)]


class Progress(Structure):
    _fields_ = [("phase", c_char_p), ("measured", c_int), ("stored", c_int), ("elapsed_s", c_double), ("left_s", c_double),
                ("expected_regret", c_double)]


ProgressFunction = CFUNCTYPE(c_bool, c_void_p, POINTER(Progress))
RunningFunction = CFUNCTYPE(None, c_void_p, c_void_p)  # not used here


class CalibrateOptions(Structure):
    _fields_ = [("device", c_char_p), ("store", c_char_p), ("budget_s", c_double), ("target_regret", c_double),
                ("types", c_uint), ("layouts", c_uint), ("seed", c_uint64), ("alone", c_bool),
                ("progress", ProgressFunction), ("user", c_void_p),
                ("memory_bytes", c_int64), ("running", RunningFunction)]


class Regret(Structure):
    _fields_ = [("problems", c_int), ("mean", c_double), ("median", c_double), ("p95", c_double), ("max", c_double)]


class Acceptance(Structure):
    _fields_ = [("type", c_int), ("layout", c_int), ("advisor", Regret), ("always_fused", Regret), ("always_bmm", Regret),
                ("ratio", Regret), ("ratio_threshold", c_double), ("agreement", c_double), ("measured", c_int)]


class CalibrateReport(Structure):
    _fields_ = [("device", c_char * DEVICE_BYTES), ("elapsed_s", c_double), ("copy_bytes_per_s", c_double),
                ("gemm_flops_per_s", c_double * len(TYPES)), ("measured", c_int), ("canaries", c_int),
                ("kept", c_int), ("rescaled", c_int), ("set_aside", c_int), ("count", c_int),
                ("acceptance", Acceptance * (len(TYPES) * len(LAYOUTS)))]


def _declare(library):
    problem, context = POINTER(Problem), c_void_p
    for name, arguments in {
            "ks_open": [POINTER(context), POINTER(Options)],
            "ks_store_status": [context, POINTER(c_char_p)],
            "ks_problem_check": [problem],
            "ks_auto_matmul": [context, problem, c_void_p, c_void_p, c_void_p, c_void_p],
            "ks_matmul": [context, problem, c_char_p, c_void_p, c_void_p, c_void_p, c_void_p],
            "ks_grad_weights": [context, problem, c_void_p, c_void_p, c_void_p, c_void_p],
            "ks_chain_open": [POINTER(c_void_p), context, problem, c_int, c_char_p],
            "ks_chain_matmul_with": [c_void_p, c_void_p, POINTER(c_void_p), c_void_p, POINTER(Epilogue), c_void_p],
            "ks_choose": [context, problem, POINTER(c_char_p)],
            "ks_advise": [context, problem, POINTER(Advice)],
    }.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    library.ks_close.argtypes, library.ks_close.restype = [context], None
    for name, result in {"ks_chain_close": None, "ks_chain_describe": c_char_p, "ks_chain_plan": c_char_p,
                         "ks_chain_predicted_s": c_double, "ks_chain_workspace_bytes": c_size_t}.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [c_void_p], result
    library.ks_status_message.argtypes, library.ks_status_message.restype = [c_int], c_char_p
    return library


def _built_here():
    """Libraries of the checkout around this file, the newest first, built by quickstart.sh or a preset without sanitizers; none
    where the package is installed elsewhere."""
    folders = pathlib.Path(__file__).resolve().parents
    if len(folders) < 4 or not (folders[3] / "advisor" / "ksauto.h").exists():
        return []
    named = [folders[3] / "build" / name / SONAME for name in ("quickstart", "release", "clang", "cuda")]
    found = sorted((path for path in named if path.exists()), key=lambda path: path.stat().st_mtime, reverse=True)
    return [str(path) for path in found]


def _open():
    named = os.environ.get("KSAUTO_LIBRARY")
    tried = []
    for path in [named] if named else [SONAME, *_built_here()]:
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
            continue
        library.ks_version.restype = c_char_p
        version = library.ks_version().decode()
        if version.split(".")[:2] != VERSION.split(".")[:2]:
            raise ImportError(f"{path} is ksauto {version}; this package is for {VERSION}")
        return _declare(library), path
    raise ImportError("libksauto was not found: build it (sh tools/quickstart.sh), install it (cmake --install), and name "
                      "it by KSAUTO_LIBRARY if the loader does not know it. Tried: " + "; ".join(tried))


library, path = _open()
_calib = None
_calib_lock = threading.Lock()


def calib_library():
    """libksauto_calib, beside libksauto. It links GSL, which is GPL: loaded only by who calibrates."""
    global _calib
    with _calib_lock:
        if _calib is None:
            folder, name = os.path.split(path)
            _calib = ctypes.CDLL(os.path.join(folder, name.replace("libksauto", "libksauto_calib", 1)))
            _calib.ks_calibrate.argtypes = [POINTER(CalibrateOptions), POINTER(CalibrateReport)]
            _calib.ks_calibrate.restype = c_int
        return _calib


def check(status):
    """Nothing for KS_OK; else the exception that tells the library's message. On the thread that made the call."""
    if status != 0:
        name = STATUSES[status] if status < len(STATUSES) else str(status)
        raise EXCEPTIONS.get(name, Error)(name, library.ks_status_message(status).decode(errors="replace"))


def index(what, names, value):
    if value not in names:
        raise ArgumentError("KS_ERR_ARGUMENT", f"{what} is {value!r}; valid: {', '.join(names)}")
    return names.index(value)
