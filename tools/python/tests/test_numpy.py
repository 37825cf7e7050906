"""The package on NumPy arrays: products against the definition, arguments, errors, advice, a calibration, threads.

    python3 test_numpy.py          # finds the package beside itself, and the library by KSAUTO_LIBRARY

Exits 77 where there is no NumPy, which CTest counts as skipped."""

import concurrent.futures
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError:
    print("skipped: no NumPy for this Python")
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault("KSAUTO_DB", os.path.join(tempfile.mkdtemp(), "none.db"))
import ksauto

PATTERNS = [(1, 1, 1, 1), (1, 5, 7, 1), (2, 3, 5, 7), (7, 5, 3, 2), (6, 16, 16, 1), (1, 16, 32, 16)]
ROUNDOFF = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


def draw(pattern, batch, dtype, seed=1):
    """x (batch, a, c, d) and k (a, b, c, d)."""
    a, b, c, d = pattern
    random = np.random.default_rng(seed)
    return (random.standard_normal((batch, a, c, d)).astype(dtype), random.standard_normal((a, b, c, d)).astype(dtype))


def defined(x, k):
    """The product and a bound on its error, by the definition in float64 (float128 where the machine has it)."""
    exact = np.longdouble
    y = np.einsum("iJkl,nikl->niJl", k.astype(exact), x.astype(exact))
    size = np.einsum("iJkl,nikl->niJl", abs(k).astype(exact), abs(x).astype(exact))
    unit = ROUNDOFF[x.dtype.name]
    return y, (k.shape[2] + 8) * min(unit, 2.0**-24) * size + 2 * unit * abs(y) + 1e-30


class Product(unittest.TestCase):
    def assert_product(self, y, x, k, shape):
        want, bound = defined(x, k)
        self.assertEqual(y.shape, shape)
        self.assertEqual(y.dtype, x.dtype)
        self.assertTrue((abs(y.reshape(want.shape) - want) <= bound).all())

    def test_every_type_layout_and_order_of_weights(self):
        for pattern in PATTERNS:
            a, b, c, d = pattern
            for dtype in ROUNDOFF:
                for batch in (1, 17):
                    x, k = draw(pattern, batch, dtype)
                    block = np.ascontiguousarray(k.transpose(0, 3, 1, 2))
                    flat = x.reshape(batch, -1)
                    with self.subTest(pattern=pattern, dtype=dtype, batch=batch):
                        self.assert_product(ksauto.matmul(flat, block, pattern), x, k, (batch, a * b * d))
                        self.assert_product(ksauto.matmul(flat, k, pattern, weights="abcd"), x, k, (batch, a * b * d))
                        last = ksauto.matmul(np.ascontiguousarray(flat.T), block, pattern, layout="last")
                        self.assertEqual(last.shape, (a * b * d, batch))
                        self.assert_product(last.T, x, k, (batch, a * b * d))

    def test_paths_give_the_same(self):
        x, k = draw((2, 16, 16, 3), 33, "float32")
        for path in ("auto", "fused", "bmm", "ref.cpu", "fused.cpu"):
            try:
                y = ksauto.matmul(x.reshape(33, -1), k, weights="abcd", path=path)
            except ksauto.Error as error:
                self.assertEqual((path, error.status), ("bmm", "KS_ERR_UNSUPPORTED"))  # no BLAS on this machine
                continue
            self.assert_product(y, x, k, (33, 96))

    def test_batch_axes_and_pattern_from_the_weights(self):
        x, k = draw((2, 3, 5, 7), 12, "float64")
        self.assert_product(ksauto.matmul(x.reshape(3, 4, 70), k, weights="abcd"), x, k, (3, 4, 42))
        self.assert_product(ksauto.matmul(x[0].reshape(70), k, "2,3,5,7", weights="abcd"), x[:1], k, (42,))
        last = ksauto.matmul(np.ascontiguousarray(x.reshape(12, 70).T).reshape(70, 3, 4), k, weights="abcd", layout="last")
        self.assertEqual(last.shape, (42, 3, 4))
        self.assert_product(last.reshape(42, 12).T, x, k, (12, 42))

    def test_strides(self):
        x, k = draw((2, 3, 5, 7), 12, "float32")
        flat = x.reshape(12, 70)
        block = np.ascontiguousarray(k.transpose(0, 3, 1, 2))
        fortran = np.asfortranarray(flat)
        y = ksauto.matmul(fortran, block)  # by the other layout
        self.assertTrue(y.flags.f_contiguous)
        self.assert_product(y, x, k, (12, 42))
        self.assert_product(ksauto.matmul(np.repeat(flat, 2, axis=1)[:, ::2], block), x, k, (12, 42))
        view = block.transpose(0, 2, 3, 1)  # (a, b, c, d) whose memory is in block order: not copied
        pattern, taken = ksauto._context._weights(view, None, "abcd")
        self.assertEqual(pattern, (2, 3, 5, 7))
        self.assertTrue(np.shares_memory(taken, block))
        self.assert_product(ksauto.matmul(flat, view, weights="abcd"), x, k, (12, 42))

    def test_out(self):
        x, k = draw((2, 3, 5, 7), 12, "float32")
        out = np.full((12, 42), np.nan, np.float32)
        self.assertIs(ksauto.matmul(x.reshape(12, 70), k, weights="abcd", out=out), out)
        self.assert_product(out, x, k, (12, 42))
        fortran = np.asfortranarray(x.reshape(12, 70))
        out[:] = np.nan
        self.assertIs(ksauto.matmul(fortran, k, weights="abcd", out=out), out)
        self.assert_product(out, x, k, (12, 42))
        for wrong in (np.empty((12, 41), np.float32), np.empty((12, 42)), np.empty((42, 12), np.float32).T):
            with self.assertRaises(ksauto.ArgumentError):
                ksauto.matmul(x.reshape(12, 70), k, weights="abcd", out=wrong)

    def test_no_samples(self):
        y = ksauto.matmul(np.empty((0, 70), np.float32), np.empty((2, 3, 5, 7), np.float32), weights="abcd")
        self.assertEqual(y.shape, (0, 42))

    def test_bfloat16(self):
        try:
            from ml_dtypes import bfloat16
        except ImportError:
            self.skipTest("no ml_dtypes")
        x, k = (v.astype(bfloat16) for v in draw((2, 3, 5, 7), 4, "float32"))
        want = np.einsum("iJkl,nikl->niJl", k.astype(float), x.astype(float)).reshape(4, 42)
        y = ksauto.matmul(x.reshape(4, 70), k, weights="abcd")
        self.assertEqual(y.dtype, x.dtype)
        np.testing.assert_allclose(y.astype(float), want, rtol=2.0**-8, atol=1e-5)

    def test_threads_share_a_context(self):
        x, k = draw((2, 16, 16, 3), 64, "float32")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: ksauto.matmul(x.reshape(64, -1), k, weights="abcd"), range(32)))
        for y in done:
            self.assert_product(y, x, k, (64, 96))


class Errors(unittest.TestCase):
    def raises(self, text, **changes):
        x, k = draw((2, 3, 5, 7), 2, "float32")
        arguments = {"x": x.reshape(2, 70), "k": k, "pattern": (2, 3, 5, 7), "weights": "abcd", **changes}
        with self.assertRaises(ksauto.Error) as caught:
            ksauto.matmul(**arguments)
        self.assertIn(text, str(caught.exception))
        return caught.exception

    def test_what_is_wrong_is_named(self):
        self.assertIsInstance(self.raises("a*c*d = 70", x=np.empty((2, 71), np.float32)), ValueError)
        self.raises("int32", x=np.empty((2, 70), np.int32))
        self.raises("type float64", k=np.empty((2, 3, 5, 7)))
        self.raises("pattern (2, 3, 5, 8)", pattern=(2, 3, 5, 8))
        self.raises("valid: four sizes", pattern=(2, 3, 5))
        self.raises("valid: block, abcd", weights="bcad")
        self.raises("valid: first, last", layout="middle")
        self.raises("\"bmw\" is unknown", path="bmw")
        self.assertEqual(self.raises("b is 0", k=np.empty((2, 0, 5, 7), np.float32), pattern=None).status, "KS_ERR_ARGUMENT")

    def test_overlap_and_devices(self):
        memory = np.zeros(400, np.float32)
        self.raises("overlaps", x=memory[:140].reshape(2, 70), out=memory[100:184].reshape(2, 42))
        with self.assertRaises(ksauto.Error) as caught:
            ksauto.Context("gpu of dreams")
        self.assertEqual(caught.exception.status, "KS_ERR_DEVICE")
        self.assertIn("gpu of dreams", str(caught.exception))


class Structs(unittest.TestCase):
    def test_are_those_of_the_header(self):
        """Size and every field's place, asked of a C compiler."""
        header = pathlib.Path(__file__).resolve().parents[3] / "advisor" / "ksauto.h"
        names = {"Problem": "ks_problem", "Options": "ks_options", "Candidate": "ks_candidate", "Advice": "ks_advice",
                 "Progress": "ks_progress", "CalibrateOptions": "ks_calibrate_options", "Regret": "ks_regret",
                 "Acceptance": "ks_acceptance", "CalibrateReport": "ks_calibrate_report"}
        if not shutil.which("cc") or not header.exists():
            self.skipTest("no C compiler, or not in a checkout")
        asked, mine = [], []
        for name, theirs in names.items():
            struct = getattr(ksauto._library, name)
            asked += [f"sizeof({theirs})", *(f"offsetof({theirs}, {field[0]})" for field in struct._fields_)]
            mine += [ctypes.sizeof(struct), *(getattr(struct, field[0]).offset for field in struct._fields_)]
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "ask")
            text = "".join(f'printf("%zu ", {question});' for question in asked)
            subprocess.run(["cc", "-x", "c", "-", "-o", program], check=True, text=True,
                           input=f'#include "{header}"\n#include <stdio.h>\nint main(void) {{ {text} }}')
            theirs = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
        self.assertEqual(dict(zip(asked, map(int, theirs))), dict(zip(asked, mine)))


class Advice(unittest.TestCase):
    def test_fields_lie_where_the_library_puts_them(self):
        advice = ksauto.advise((1, 192, 48, 2), 1000)
        self.assertEqual((advice.pattern, advice.batch, advice.dtype), ((1, 192, 48, 2), 1000, "f32"))
        self.assertIn(advice.path, ("fused", "bmm"))
        self.assertEqual(advice.kernel, ksauto.context().choose((1, 192, 48, 2), 1000))
        self.assertGreaterEqual(len(advice.candidates), 1)
        for candidate in advice.candidates:
            self.assertTrue(0 < candidate.time_lo_s <= candidate.time_s <= candidate.time_hi_s < 10, candidate)
        self.assertTrue(0 <= advice.p_fused_faster <= 1)
        self.assertTrue(0 < advice.roofline_s <= advice.dense_s)  # the last field of the struct
        self.assertGreater(advice.time_s, 0)

    def test_other_devices_are_known_by_their_seeds(self):
        advice = ksauto.advise((6, 64, 64, 1), 25088, "f16", device="NVIDIA H100 80GB HBM3")
        self.assertIn("H100", advice.device)
        with self.assertRaises(ksauto.Error):
            ksauto.context("NVIDIA H100 80GB HBM3").matmul(np.zeros((1, 4), "f4"), np.zeros((1, 1, 4, 4), "f4"))

    def test_context(self):
        with ksauto.Context(store="") as context:
            self.assertIn("no store", context.store_trouble)
            self.assertEqual(context.matmul(np.ones((1, 1), "f4"), np.ones((1, 1, 1, 1), "f4")), 1)


class Readme(unittest.TestCase):
    def test_its_program_runs(self):
        text = (pathlib.Path(__file__).resolve().parents[3] / "README.md").read_text()
        program = text.split("```python\n")[1].split("```")[0]
        exec(compile(program, "README.md", "exec"), {})


class Chains(unittest.TestCase):
    PATTERNS = [(1, 24, 8, 6), (3, 16, 32, 1)]

    def test_is_the_product_of_its_factors(self):
        random = np.random.default_rng(2)
        x = random.standard_normal((33, 96))
        factors = [random.standard_normal(pattern) for pattern in self.PATTERNS]
        between = defined(x.reshape(33, 3, 32, 1), factors[1])[0].astype(float)
        want = defined(between.reshape(33, 1, 8, 6), factors[0])[0].astype(float).reshape(33, 144)
        for plan in (None, "auto/first auto/last", "ref.cpu/last fused/first"):
            chain = ksauto.Chain(self.PATTERNS, 33, "f64", plan=plan)
            np.testing.assert_allclose(chain.matmul(x, factors, "abcd"), want, rtol=1e-10, atol=1e-10)
            again = ksauto.Chain(self.PATTERNS, 33, "f64", plan=chain.plan)
            self.assertEqual((str(again), again.plan), (str(chain), chain.plan))
            self.assertGreaterEqual(chain.workspace_bytes, 33 * 48 * 8)
        last = ksauto.Chain(self.PATTERNS, 33, "f64", "last")
        self.assertGreater(last.predicted_s, 0)
        np.testing.assert_allclose(last.matmul(x.T, factors, "abcd").T, want, rtol=1e-10, atol=1e-10)

    def test_errors(self):
        with self.assertRaisesRegex(ksauto.ArgumentError, "makes 48 features, but factor 1 takes 42"):
            ksauto.Chain([(1, 24, 7, 6), (3, 16, 32, 1)], 33)
        with self.assertRaisesRegex(ksauto.ArgumentError, "not KERNEL/LAYOUT"):
            ksauto.Chain(self.PATTERNS, 33, plan="what")
        with self.assertRaisesRegex(ksauto.ArgumentError, r"x of shape \(33, 96\)"):
            ksauto.Chain(self.PATTERNS, 33).matmul(np.zeros((32, 96), "f4"), [np.zeros(p, "f4") for p in self.PATTERNS], "abcd")


def butterflies(levels):
    return [(2**f, 2, 2, 2**(levels - 1 - f)) for f in range(levels)]


class Factorising(unittest.TestCase):
    def test_dense(self):
        x, k = draw((2, 3, 5, 7), 4, "float64")
        np.testing.assert_allclose(x.reshape(4, 70) @ ksauto.dense(k).T, ksauto.matmul(x.reshape(4, 70), k, weights="abcd"),
                                   atol=1e-12)

    def test_exact_where_the_matrix_has_the_structure(self):
        hadamard = np.array([[1.0]])
        for _ in range(7):
            hadamard = np.kron(hadamard, [[1, 1], [1, -1]])
        n, levels = 64, 6
        fourier = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
        reversal = [int(format(q, f"0{levels}b")[::-1], 2) for q in range(n)]
        random = np.random.default_rng(4)
        cases = [(hadamard, butterflies(7)), (fourier[:, reversal], butterflies(levels)),
                 (fourier[:, reversal], [(1, 8, 8, 8), (8, 8, 8, 1)])]
        for patterns in ([(1, 192, 48, 2), (2, 48, 192, 1)], [(1, 12, 4, 6), (2, 4, 6, 3), (6, 6, 5, 1)], [(2, 3, 5, 7)]):
            product = ksauto.dense(random.standard_normal(patterns[-1]))
            for pattern in patterns[-2::-1]:
                product = ksauto.dense(random.standard_normal(pattern)) @ product
            cases.append((product, patterns))
        for matrix, patterns in cases:
            found = ksauto.factorise(matrix, patterns)
            self.assertEqual([factor.shape for factor in found.factors], patterns)
            self.assertLess(found.error, 1e-12, patterns)

    def test_two_factors_are_the_best_there_are(self):
        """Against alternating least squares from another start, which can only end above the minimum."""
        random = np.random.default_rng(5)
        for patterns in ([(1, 6, 4, 3), (3, 4, 5, 1)], [(2, 3, 3, 2), (3, 2, 4, 2)]):  # the second is not chainable
            (a, b, c, d), (a2, b2, c2, d2) = patterns
            matrix = random.standard_normal((a * b * d, a2 * c2 * d2))
            found = ksauto.factorise(matrix, patterns)
            inside = [ksauto.dense(np.ones(pattern)) != 0 for pattern in patterns]
            left = random.standard_normal(inside[0].shape) * inside[0]
            for _ in range(300):
                right = np.zeros(inside[1].shape)
                for column in range(right.shape[1]):
                    free = inside[1][:, column]
                    right[free, column] = np.linalg.lstsq(left[:, free], matrix[:, column], rcond=None)[0]
                for row in range(left.shape[0]):
                    free = inside[0][row]
                    left[row, free] = np.linalg.lstsq(right[free].T, matrix[row], rcond=None)[0]
            best = np.linalg.norm(matrix - left @ right) / np.linalg.norm(matrix)
            self.assertLess(found.error, best + 1e-9)
            self.assertGreater(found.error, best - 1e-3)

    def test_noise_stays_small(self):
        random = np.random.default_rng(6)
        matrix = np.array([[1.0]])
        for _ in range(6):
            matrix = np.kron(matrix, [[1, 1], [1, -1]])
        noisy = matrix + 1e-3 * random.standard_normal(matrix.shape)
        self.assertLess(ksauto.factorise(noisy, butterflies(6)).error, 2e-3)

    def test_errors(self):
        with self.assertRaisesRegex(ksauto.ArgumentError, "neighbours must fit"):
            ksauto.factorise(np.eye(8), [(1, 2, 2, 4), (2, 2, 3, 2)])
        with self.assertRaisesRegex(ksauto.ArgumentError, "not chainable"):
            ksauto.factorise(np.eye(8), butterflies(3)[::-1])


class Calibrating(unittest.TestCase):
    def test_measures_reports_and_can_be_stopped(self):
        with tempfile.TemporaryDirectory() as folder:
            store, seen = os.path.join(folder, "ks.db"), []
            report = ksauto.calibrate(budget_s=0.5, store=store, layouts=["first"], seed=3, progress=seen.append)
            self.assertTrue(os.path.exists(store))
            self.assertGreater(report.measured, 0)
            self.assertGreater(report.copy_bytes_per_s, 1e8)
            self.assertIn("f32", report.gemm_flops_per_s)
            self.assertEqual([(a.dtype, a.layout) for a in report.acceptance], [("f32", "first")])
            self.assertGreaterEqual(report.acceptance[0].advisor.max, report.acceptance[0].advisor.median)
            self.assertTrue(any(state["phase"] == "measure" for state in seen))
            with self.assertRaises(ksauto.Error) as caught:
                ksauto.calibrate(budget_s=60, store=store, progress=lambda state: False)
            self.assertEqual(caught.exception.status, "KS_ERR_INTERRUPTED")

            def interrupted(state):
                raise KeyboardInterrupt

            with self.assertRaises(KeyboardInterrupt):
                ksauto.calibrate(budget_s=60, store=store, progress=interrupted)


if __name__ == "__main__":
    unittest.main()
