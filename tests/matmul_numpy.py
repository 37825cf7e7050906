"""ksauto matmul against NumPy: `python3 matmul_numpy.py PATH_TO_KSAUTO`.

The definition is one einsum; everything the command accepts (layouts, orders of weights, shapes, types, paths) must agree
with it. Sums are compared with a bound that follows from the type and the length of the sum, not with a loose
tolerance, so that a wrong index cannot hide. Then a chain of ten butterfly factors must be the Walsh-Hadamard
transform, whose closed form knows nothing of this library. Needs numpy alone; prints a line a group and exits 1 at the
first difference. KSAUTO_TEST_QUICK=1 leaves three in four of the patterns out."""

import itertools
import os
import subprocess
import sys
import tempfile

import numpy as np

PATTERNS = [(1, 1, 1, 1), (1, 5, 7, 1), (3, 1, 1, 1), (1, 1, 1, 5), (2, 3, 5, 7), (7, 5, 3, 2), (1, 13, 1, 11), (3, 1, 17, 1),
            (1, 48, 48, 2), (6, 16, 16, 1), (1, 16, 32, 16), (11, 2, 2, 13)]
if os.environ.get("KSAUTO_TEST_QUICK"):
    PATTERNS = PATTERNS[1::4]
BATCHES = [1, 3, 17]
UNIT_ROUNDOFF = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


class Command:
    def __init__(self, binary, directory):
        self.binary = binary
        self.directory = directory

    def path(self, name):
        return os.path.join(self.directory, name)

    def matmul(self, pattern, x, k, *options):
        np.save(self.path("x.npy"), x)
        np.save(self.path("k.npy"), k)
        out = self.path("y.npy")
        command = [self.binary, "--db", self.path("none.db"), "matmul", "--pattern", ",".join(map(str, pattern)), "--x",
                   self.path("x.npy"), "--k", self.path("k.npy"), "--out", out, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        # The store does not exist, which is worth a note and no more.
        if done.returncode != 0 or done.stdout:
            sys.exit(f"{' '.join(command)}\nexit {done.returncode}, stdout {done.stdout!r}, stderr {done.stderr!r}")
        y = np.load(out)
        os.unlink(out)
        return y


def check(what, y, x4, k, last):
    """y (any rank) against the definition, for x4 of shape (batch,a,c,d), k of shape (a,b,c,d)."""
    wide_x, wide_k = x4.astype(np.float64), k.astype(np.float64)
    want = np.einsum("abcd,nacd->nabd", wide_k, wide_x)
    size = np.einsum("abcd,nacd->nabd", np.abs(wide_k), np.abs(wide_x))
    if last:
        want, size = np.moveaxis(want, 0, -1), np.moveaxis(size, 0, -1)
    if y.dtype != x4.dtype:
        sys.exit(f"{what}: dtype {y.dtype}, not {x4.dtype}")
    sum_type = "float64" if y.dtype == np.float64 else "float32"
    terms = k.shape[2] + 2
    bound = terms * UNIT_ROUNDOFF[sum_type] * size + UNIT_ROUNDOFF[str(y.dtype)] * np.abs(want) * 1.01
    if y.dtype == np.float16:
        bound = bound + 2.0**-24  # the smallest float16
    off = np.abs(y.astype(np.float64).reshape(want.shape) - want) - bound
    if not np.all(off <= 0):
        sys.exit(f"{what}: off by {np.nanmax(off)} beyond the bound at {np.unravel_index(np.nanargmax(off), off.shape)}")


def compare(command, random):
    count = 0
    for pattern, dtype, layout in itertools.product(PATTERNS, ("float32", "float16", "float64"), ("first", "last")):
        a, b, c, d = pattern
        last = layout == "last"
        for i, batch in enumerate(BATCHES):
            x4 = random.standard_normal((batch, a, c, d)).astype(dtype)
            k = random.standard_normal((a, b, c, d)).astype(dtype)
            x = np.ascontiguousarray(np.moveaxis(x4, 0, -1)) if last else x4
            # One batch takes 4-d arrays, the next 2-d, the next flat; K goes through both orders each time.
            features = (a * c * d, batch) if last else (batch, a * c * d)
            shapes = [x.shape, features, (x.size,)]
            out4 = (a, b, d, batch) if last else (batch, a, b, d)
            out2 = (a * b * d, batch) if last else (batch, a * b * d)
            outs = [out4, out2, (batch * a * b * d,)]
            block = np.ascontiguousarray(k.transpose(0, 3, 1, 2))
            for weights, array in (("abcd", k), ("block", block)):
                if i == 2:
                    array = array.reshape(-1)
                for path in ("auto", "fused", "bmm") if weights == "abcd" else ("auto",):
                    what = f"{pattern} batch {batch} {dtype} {layout} --weights {weights} --path {path}"
                    options = ["--weights", weights, "--layout", layout, "--path", path]
                    y = command.matmul(pattern, x.reshape(shapes[i]), array, *options)
                    if y.shape != outs[i]:
                        sys.exit(f"{what}: shape {y.shape}, not {outs[i]}")
                    check(what, y, x4, k, last)
                    count += 1
    print(f"einsum: {count} products agree")


def walsh_hadamard(command, layout):
    """H = product of the factors (2^k, 2, 2, 2^(9-k)), each block of which is [[1, 1], [1, -1]]; H[i,j] = (-1)^popcount(i&j)."""
    n, last = 1024, layout == "last"
    random = np.random.default_rng(3)
    x = random.integers(-4, 5, (5, n)).astype(np.float32)
    bits = np.array([bin(i).count("1") for i in range(n)])
    index = np.arange(n)
    h = 1.0 - 2.0 * (bits[index[:, None] & index[None, :]] % 2)
    y = np.ascontiguousarray(x.T) if last else x
    for level in range(10):
        a, d = 2**level, 2 ** (9 - level)
        k = np.empty((a, 2, 2, d), np.float32)
        k[...] = np.array([[1, 1], [1, -1]], np.float32)[None, :, :, None]
        y = command.matmul((a, 2, 2, d), y, k, "--layout", layout)
    want = x.astype(np.float64) @ h.T
    if not np.array_equal(y.T if last else y, want):  # small integers: exact in float32, in every order of the sums
        sys.exit(f"Walsh-Hadamard, layout {layout}: differs by {np.abs((y.T if last else y) - want).max()}")
    print(f"Walsh-Hadamard of length {n}, layout {layout}: equal")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: matmul_numpy.py PATH_TO_KSAUTO")
    with tempfile.TemporaryDirectory() as directory:
        command = Command(os.path.abspath(sys.argv[1]), directory)
        compare(command, np.random.default_rng(1))
        for layout in ("first", "last"):
            walsh_hadamard(command, layout)


if __name__ == "__main__":
    main()
