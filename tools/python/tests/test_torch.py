"""KSLinear and its operators on the CPU. Exits 77 where there is no PyTorch, which CTest counts as skipped.

    python3 test_torch.py          # finds the package beside itself, and the library by KSAUTO_LIBRARY"""

import copy
import io
import os
import pathlib
import sys
import tempfile
import unittest

try:
    import torch
except ImportError:
    print("skipped: no PyTorch for this Python")
    sys.exit(77)

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1])]
os.environ.setdefault("KSAUTO_DB", os.path.join(tempfile.mkdtemp(), "none.db"))
import torch_cases as cases
from ksauto.torch import KSLinear, matmul


def layer(**options):
    torch.manual_seed(5)
    return KSLinear(96, 144, patterns=cases.CHAIN, **options)


class Operators(unittest.TestCase):
    def test_products(self):
        cases.products(self, "cpu")

    def test_gradcheck(self):
        for last in (False, True):
            x, k = cases.draw((2, 3, 4, 2), 5, torch.float64, "cpu")
            x = (x.t().contiguous() if last else x).requires_grad_()
            for weights in (k, cases.block_order(k)):
                weights = weights.detach().requires_grad_()
                torch.autograd.gradcheck(lambda x, k: matmul(x, k, last), (x, weights))
                torch.autograd.gradgradcheck(lambda x, k: matmul(x, k, last), (x, weights))

    def test_opcheck(self):
        for last in (False, True):
            x, k = cases.draw((2, 3, 5, 7), 4, torch.float32, "cpu")
            x = (x.t().contiguous() if last else x).requires_grad_()
            torch.library.opcheck(torch.ops.ksauto.matmul, (x, cases.block_order(k).requires_grad_(), last))
            dy = torch.randn(42, 4) if last else torch.randn(4, 42)
            torch.library.opcheck(torch.ops.ksauto.grad_weights, (x, dy.requires_grad_(), [2, 3, 5, 7], last))

    def test_chain(self):
        for last in (False, True):
            x = torch.randn(3, 5, 96)
            factors = [cases.block_order(torch.randn(pattern)) for pattern in cases.CHAIN]
            want = cases.einsum(cases.einsum(x, factors[1]), factors[0])
            mine = x.permute(2, 0, 1).contiguous() if last else x
            y = torch.ops.ksauto.chain(mine, factors, last)
            torch.testing.assert_close(y.permute(1, 2, 0) if last else y, want, rtol=1e-4, atol=1e-4)
            torch.library.opcheck(torch.ops.ksauto.chain, (mine, factors, last))
            bias = torch.randn(288)[::2]
            y = torch.ops.ksauto.chain(mine, factors, last, bias)
            torch.testing.assert_close(y.permute(1, 2, 0) if last else y, want + bias, rtol=1e-4, atol=1e-4)
            torch.library.opcheck(torch.ops.ksauto.chain, (mine, factors, last, bias))
            with self.assertRaisesRegex(RuntimeError, "bias has shape \\(143,\\); it must be \\(144,\\)"):
                torch.ops.ksauto.chain(mine, factors, last, bias[1:])
            self.assertEqual(torch.ops.ksauto.chain(x[:0], factors).shape, (0, 5, 144))
            with self.assertRaisesRegex(RuntimeError, "must be 48"):
                torch.ops.ksauto.chain(x[..., :48], factors[:1] + factors[:1])
            with self.assertRaisesRegex(ValueError, "activation is 'tanh'; valid: None, relu"):
                torch.ops.ksauto.chain(mine, factors, last, bias, "tanh")

    def test_chain_after_chain(self):
        """What is kept of one call fits no other: each differs from the one before in one thing alone."""
        wide = [cases.block_order(torch.randn(pattern)) for pattern in cases.CHAIN]
        plain = [k.contiguous() for k in wide]
        bias = torch.randn(144)
        x = torch.randn(6, 96)
        for x, factors, bias, activation in ((x, wide, None, None), (x, wide, bias, None), (x, wide, bias, "relu"),
                                             (x, wide, bias, "gelu"), (x, plain, bias, "gelu"), (x.view(2, 3, 96), plain, bias, None),
                                             (x[:5], wide, bias, None), (x.t().contiguous().t(), wide, bias, None),
                                             (x.double(), [k.double() for k in wide], bias.double(), None),
                                             (x, wide, torch.randn(288)[::2], None), (x, wide, bias, "silu")):
            want = cases.einsum(cases.einsum(x.double(), factors[1].double()), factors[0].double())
            want = cases.ACTIVATIONS[activation](want if bias is None else want + bias.double())
            for _ in range(2):  # made, and kept
                y = torch.ops.ksauto.chain(x, factors, False, bias, activation)
                torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-4)
                self.assertEqual(y.dtype, x.dtype)
        with self.assertRaisesRegex(RuntimeError, "two types"):
            torch.ops.ksauto.chain(x, [wide[0].double(), wide[1]])

    def test_batches_of_any_shape(self):
        x, k = cases.draw((2, 3, 5, 7), 12, torch.float32, "cpu")
        cases.assert_product(self, matmul(x.view(3, 4, 70), k).view(12, 42), x, k)
        cases.assert_product(self, matmul(x[3], k)[None], x[3:4], k)
        cases.assert_product(self, matmul(x[::2], k), x[::2], k)
        self.assertEqual(matmul(x[:0], k).shape, (0, 42))
        empty = x[:0].clone().requires_grad_()
        k.requires_grad_()
        matmul(empty, k).sum().backward()
        self.assertEqual((float(k.grad.abs().max()), empty.grad.shape), (0.0, (0, 70)))

    def test_what_is_wrong_is_named(self):
        x, k = cases.draw((2, 3, 5, 7), 4, torch.float32, "cpu")
        for arguments, text in (((x[:, 1:], k), "must be 70"), ((x.double(), k), "two types"), ((x.int(), k), "int32"),
                                ((x, k[0]), "valid: \\(a, b, c, d\\)")):
            with self.assertRaisesRegex(RuntimeError, text):
                matmul(*arguments)


class Readme(unittest.TestCase):
    def test_its_program_runs(self):
        text = (pathlib.Path(__file__).resolve().parents[3] / "README.md").read_text()
        program = text.split("```python\n")[2].split("```")[0]
        exec(compile(program, "README.md", "exec"), {})


class Layer(unittest.TestCase):
    def test_is_the_chain(self):
        for dtype in cases.ROUNDOFF:
            made = layer(dtype=dtype)
            x = torch.randn(2, 17, 96).to(dtype)
            want = cases.EinsumLinear(made).double()(x.double()).detach()
            bound = 8 * cases.ROUNDOFF[dtype] * float(want.abs().max())
            dense = torch.nn.functional.linear(x.double(), made.dense().double(), made.bias.double())
            torch.testing.assert_close(made(x).double(), want, rtol=0, atol=bound)
            torch.testing.assert_close(dense, want, rtol=0, atol=bound)
            with torch.no_grad():  # the planned chain, and the bias with it
                torch.testing.assert_close(made(x).double(), want, rtol=0, atol=bound)
        mixed = layer(dtype=torch.bfloat16)
        mixed.bias = torch.nn.Parameter(mixed.bias.float())
        with torch.no_grad():
            self.assertEqual(mixed(torch.randn(17, 96).bfloat16()).dtype, torch.float32)  # as with gradients
        last, first = layer(layout="last"), layer()
        x = torch.randn(17, 96)
        torch.testing.assert_close(last(x.t()).t(), first(x))

    def test_starts_like_linear(self):
        torch.manual_seed(0)
        made = KSLinear(1536, 384, patterns=[(1, 128, 128, 3), (6, 64, 256, 1)])
        y = made(torch.randn(4096, 1536))
        self.assertAlmostEqual(float(y.detach().var()), 1 / 3, delta=0.02)

    def test_patterns_must_fit(self):
        for sizes, patterns, text in (((96, 144), [(1, 24, 8, 7), (3, 16, 32, 1)], "makes 168 features, but out_features"),
                                      ((96, 144), [(1, 24, 8, 6), (3, 15, 32, 1)], "makes 45 features, but the one before"),
                                      ((95, 144), cases.CHAIN, "in_features is 95"), ((4, 4), [], "in_features is 4"),
                                      ((0, 0), [(0, 1, 1, 1)], "at least 1")):
            with self.assertRaisesRegex(ValueError, text):
                KSLinear(*sizes, patterns=patterns)

    def test_state_dict(self):
        made, other = layer(), layer(bias=True)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.fill_(torch.nan)
        file = io.BytesIO()
        torch.save(made.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        self.assertEqual({name: tuple(value.shape) for name, value in state.items()},
                         {"factors.0": (1, 24, 8, 6), "factors.1": (3, 16, 32, 1), "bias": (144,)})
        plain = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        x = torch.randn(5, 96)
        other.load_state_dict(plain)  # the paper's order in memory, too
        torch.testing.assert_close(other(x), made(x), rtol=0, atol=0)
        for moved in (made.double().float(), copy.deepcopy(made), other):
            for factor in moved.factors:
                self.assertTrue(factor.permute(0, 3, 1, 2).is_contiguous())  # nothing is copied at a product

    def test_from_factors(self):
        made = layer()
        plain = [f.detach().contiguous() for f in made.factors]
        x = torch.randn(5, 96)
        for factors, weights in ((plain, "abcd"), ([f.permute(0, 3, 1, 2) for f in plain], "block")):
            again = KSLinear.from_factors(factors, made.bias, weights)
            self.assertEqual((again.in_features, again.out_features, again.patterns), (96, 144, made.patterns))
            torch.testing.assert_close(again(x), made(x), rtol=0, atol=0)
        self.assertIsNone(KSLinear.from_factors(plain).bias)
        self.assertEqual(KSLinear.from_factors(plain, activation="relu").activation, "relu")
        with self.assertRaises(ValueError):
            KSLinear.from_factors(plain[::-1])

    def test_from_dense(self):
        made = layer()
        linear = torch.nn.Linear(96, 144)
        with torch.no_grad():
            linear.weight.copy_(made.dense())
        again, error = KSLinear.from_dense(linear, cases.CHAIN)
        self.assertLess(error, 1e-6)
        x = torch.randn(5, 96)
        torch.testing.assert_close(again(x), linear(x), rtol=0, atol=1e-5)
        self.assertGreater(KSLinear.from_dense(torch.randn(144, 96), cases.CHAIN)[1], 0.1)

    def test_autocast(self):
        made, x = layer(), torch.randn(40, 96)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = made(x)
        self.assertEqual(y.dtype, torch.bfloat16)
        torch.testing.assert_close(y.float(), made(x), rtol=0, atol=0.05)
        y.float().sum().backward()
        self.assertEqual({p.grad.dtype for p in made.parameters()}, {torch.float32})

    def test_compile(self):
        made, x = layer(), torch.randn(40, 96)
        compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), made(x))
        compiled(x).square().sum().backward()
        got = [p.grad.clone() for p in made.parameters()]
        made.zero_grad()
        made(x).square().sum().backward()
        for mine, theirs in zip(got, made.parameters()):
            torch.testing.assert_close(mine, theirs.grad)
        torch.testing.assert_close(torch.compile(made, backend="aot_eager", fullgraph=True, dynamic=True)(x[:7]), made(x[:7]))
        with torch.no_grad():  # the planned chain
            torch.testing.assert_close(torch.compile(made, backend="aot_eager", fullgraph=True)(x), made(x))

    def test_activations(self):
        cases.activations(self, "cpu")
        with self.assertRaisesRegex(ValueError, "activation is 'tanh'"):
            layer(activation="tanh")

    def test_for_inference(self):
        made, x = layer(), torch.randn(40, 96)
        sparse_s, dense_s = made.predicted_s(40)
        self.assertTrue(sparse_s > 0 and dense_s > 0)
        self.assertIs(made.for_inference(40, allow_dense=False), made)
        taken = made.for_inference(40)
        self.assertEqual(isinstance(taken, torch.nn.Linear), dense_s < sparse_s)
        torch.testing.assert_close(taken(x), made(x), rtol=0, atol=1e-5)
        active = KSLinear(8, 8, patterns=[(8, 1, 1, 1), (1, 8, 8, 1)], activation="gelu")  # more work than its matrix
        taken = active.for_inference(40)
        self.assertIsInstance(taken[0], torch.nn.Linear)
        torch.testing.assert_close(taken(x[:, :8]), active(x[:, :8]), rtol=0, atol=1e-5)

    def test_gradients(self):
        cases.gradients_agree(self, "cpu", torch.float32, 1e-5)
        cases.gradients_agree(self, "cpu", torch.bfloat16, 5e-2)

    def test_training(self):
        cases.trains_like_einsum(self, "cpu", torch.float64, 200, 1e-6)


if __name__ == "__main__":
    unittest.main()
