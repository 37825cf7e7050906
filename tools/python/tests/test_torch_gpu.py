"""KSLinear and its operators on cuda:0: products, gradients, streams, CUDA graphs, torch.compile, autocast, training.

    KSAUTO_LIBRARY=build/cuda/libksauto.so python3 tools/python/tests/test_torch_gpu.py

Exits 77 where there is no PyTorch, no GPU, or a libksauto without CUDA. Needs no other package; inductor needs Triton, and is
left out without it."""

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
if not torch.cuda.is_available():
    print("skipped: PyTorch finds no GPU")
    sys.exit(77)

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1])]
os.environ.setdefault("KSAUTO_DB", os.path.join(tempfile.mkdtemp(), "none.db"))
import ksauto
import torch_cases as cases
from ksauto.torch import KSLinear, matmul

try:
    ksauto.context("cuda:0")
except ksauto.Error as error:
    print(f"skipped: {error}")
    sys.exit(77)

GPU = torch.device("cuda:0")


def layer(dtype=torch.float32, **options):
    torch.manual_seed(5)
    return KSLinear(96, 144, patterns=cases.CHAIN, device=GPU, dtype=dtype, **options)


class Operators(unittest.TestCase):
    def test_products(self):
        cases.products(self, GPU)

    def test_large_products(self):
        for pattern in ((6, 64, 64, 1), (1, 192, 48, 2), (1, 64, 64, 16)):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                x, k = cases.draw(pattern, 4096, dtype, GPU)
                cases.assert_product(self, matmul(x, k), x, k)
                cases.assert_product(self, matmul(x.t().contiguous(), k, last=True).t(), x, k)

    def test_tf32_is_asked_of_pytorch(self):
        x, k = cases.draw((1, 256, 256, 1), 2048, torch.float32, GPU)
        want = cases.einsum(x.double(), k.double())
        errors = []
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            errors.append(float((matmul(x, k).double() - want).abs().max() / want.abs().max()))
        torch.backends.cuda.matmul.allow_tf32 = False
        self.assertLess(errors[0], 2e-6)
        self.assertLess(errors[1], 2e-3)

    def test_gradcheck(self):
        for last in (False, True):
            x, k = cases.draw((2, 3, 4, 2), 5, torch.float64, GPU)
            x = (x.t().contiguous() if last else x).requires_grad_()
            torch.autograd.gradcheck(lambda x, k: matmul(x, k, last), (x, k.requires_grad_()))

    def test_opcheck(self):
        x, k = cases.draw((2, 3, 5, 7), 4, torch.float32, GPU)
        torch.library.opcheck(torch.ops.ksauto.matmul, (x.requires_grad_(), cases.block_order(k).requires_grad_()))

    def test_errors_name_what_is_wrong(self):
        x, k = cases.draw((2, 3, 5, 7), 4, torch.float32, GPU)
        with self.assertRaisesRegex(RuntimeError, "two devices"):
            matmul(x, k.cpu())
        self.assertEqual(matmul(x[:0], k).shape, (0, 42))


class Layer(unittest.TestCase):
    def test_gradients(self):
        cases.gradients_agree(self, GPU, torch.float32, 2e-5)
        cases.gradients_agree(self, GPU, torch.float16, 1e-2)
        cases.gradients_agree(self, GPU, torch.bfloat16, 5e-2)

    def test_training(self):
        cases.trains_like_einsum(self, GPU, torch.float64, 200, 1e-6)
        cases.trains_like_einsum(self, GPU, torch.float32, 200, 2e-2)

    def test_moves_between_devices(self):
        made = layer()
        x = torch.randn(40, 96)
        here = made(x.to(GPU))
        torch.testing.assert_close(made.cpu()(x), here.cpu(), rtol=0, atol=1e-5)
        for factor in made.to(GPU).factors:
            self.assertTrue(factor.permute(0, 3, 1, 2).is_contiguous())

    def test_autocast(self):
        made, x = layer(), torch.randn(40, 96, device=GPU)
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cuda", dtype=dtype):
                y = made(x)
            self.assertEqual(y.dtype, dtype)
            torch.testing.assert_close(y.float(), made(x), rtol=0, atol=0.05)

    def test_activations(self):
        cases.activations(self, GPU)

    def test_current_stream(self):
        """On a stream that waits: a product queued elsewhere would be done before its input is."""
        made, x = layer(), torch.randn(4096, 96, device=GPU)
        with torch.no_grad():
            want = made(x)
            torch.cuda.synchronize()
            stream, late = torch.cuda.Stream(), torch.full_like(x, torch.nan)
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(200_000_000)
                late.copy_(x)
                y = made(late)
            stream.synchronize()
        torch.testing.assert_close(y, want)

    def test_forward_does_not_wait(self):
        made, x = layer(), torch.randn(4096, 96, device=GPU)
        with torch.no_grad():
            made(x)
            torch.cuda.synchronize()
            event = torch.cuda.Event()
            torch.cuda._sleep(400_000_000)  # some 0.2 s
            torch.cuda.set_sync_debug_mode("error")
            try:
                made(x)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            event.record()
            self.assertFalse(event.query())  # queued behind the sleep, and returned
            torch.cuda.synchronize()

    def test_cuda_graph(self):
        made = layer()
        x = torch.randn(512, 96, device=GPU)
        with torch.no_grad():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                made(x)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = made(x)
            for seed in range(3):
                torch.manual_seed(seed)
                x.copy_(torch.randn(512, 96))
                y.fill_(torch.nan)
                graph.replay()
                torch.cuda.synchronize()
                torch.testing.assert_close(y, made(x), rtol=0, atol=1e-5)

    def test_cuda_graph_of_training(self):
        made = layer()
        x = torch.randn(512, 96, device=GPU)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                made.zero_grad(set_to_none=True)
                made(x).square().sum().backward()
        torch.cuda.current_stream().wait_stream(side)
        want = [p.grad.clone() for p in made.parameters()]
        made.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made(x).square().sum().backward()
        graph.replay()
        torch.cuda.synchronize()
        for parameter, gradient in zip(made.parameters(), want):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-3)

    def test_compile(self):
        made, x = layer(), torch.randn(512, 96, device=GPU)
        try:
            import triton  # noqa: F401
            backends = ({"backend": "aot_eager"}, {}, {"mode": "reduce-overhead"})
        except ImportError:
            backends = ({"backend": "aot_eager"},)
        for options in backends:
            compiled = torch.compile(made, fullgraph=True, **options)
            with torch.no_grad():
                for _ in range(3):
                    torch.testing.assert_close(compiled(x), made(x), rtol=1e-5, atol=1e-5)

    def test_for_inference(self):
        made = KSLinear(1024, 1024, patterns=[(1, 32, 32, 32), (32, 32, 32, 1)], device=GPU, dtype=torch.float16)
        x = torch.randn(64, 1024, device=GPU, dtype=torch.float16)
        taken = made.for_inference(64)
        torch.testing.assert_close(taken(x).float(), made(x).float(), rtol=0, atol=0.02)


if __name__ == "__main__":
    unittest.main()
