"""What test_torch.py and test_torch_gpu.py share: the definitions by einsum, and cases that both run on their device."""

import torch

from ksauto.torch import KSLinear, matmul

PATTERNS = [(1, 1, 1, 1), (1, 5, 7, 1), (2, 3, 5, 7), (6, 16, 16, 1), (1, 16, 32, 16)]
CHAIN = [(1, 24, 8, 6), (3, 16, 32, 1)]  # 96 -> 48 -> 144
ACTIVATIONS = {None: lambda y: y, "relu": torch.relu, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu,
               "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh")}
ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-52}


def block_order(k):
    return k.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def draw(pattern, batch, dtype, device, seed=1):
    """x (batch, a*c*d) and k (a, b, c, d), the latter as PyTorch code has it."""
    a, b, c, d = pattern
    torch.manual_seed(seed)
    return (torch.randn(batch, a * c * d, dtype=torch.float64).to(device, dtype),
            torch.randn(a, b, c, d, dtype=torch.float64).to(device, dtype))


def einsum(x, k):
    """The product by its definition, on the last dimension; differentiable."""
    a, b, c, d = k.shape
    x = x.reshape(*x.shape[:-1], a, c, d)
    return torch.einsum("ajkl,...akl->...ajl", k, x).reshape(*x.shape[:-3], a * b * d)


class EinsumLinear(torch.nn.Module):
    """What KSLinear computes, by einsum, from the same parameters."""

    def __init__(self, layer):
        super().__init__()
        self.factors = torch.nn.ParameterList(f.detach().clone() for f in layer.factors)
        self.bias = torch.nn.Parameter(layer.bias.detach().clone())

    def forward(self, x):
        for factor in reversed(self.factors):
            x = einsum(x, factor)
        return x + self.bias


def assert_product(test, y, x, k):
    """y against the definition in float64, within what sums in float32 (float64 for float64) and one rounding may do."""
    want, size = einsum(x.double(), k.double()), einsum(x.double().abs(), k.double().abs())
    unit = ROUNDOFF[x.dtype]
    bound = (k.shape[2] + 8) * min(unit, 2.0**-24) * size + 2 * unit * want.abs() + 1e-30
    if x.dtype == torch.float16:
        bound = bound + 2.0**-24
    test.assertEqual((y.shape, y.dtype, y.device), (want.shape, x.dtype, x.device))
    test.assertTrue(bool(((y.double() - want).abs() <= bound).all()))


def products(test, device):
    for pattern in PATTERNS:
        for dtype in ROUNDOFF:
            for batch in (1, 16, 33):
                x, k = draw(pattern, batch, dtype, device)
                with test.subTest(pattern=pattern, dtype=dtype, batch=batch):
                    assert_product(test, matmul(x, k), x, k)
                    assert_product(test, matmul(x, block_order(k)), x, k)
                    assert_product(test, matmul(x.t().contiguous(), block_order(k), last=True).t(), x, k)


def activations(test, device):
    """Of the layer in one planned product, of the same one with gradients, and compiled, against PyTorch's behind einsum."""
    for activation, function in ACTIVATIONS.items():
        torch.manual_seed(4)
        layer = KSLinear(96, 144, patterns=CHAIN, activation=activation, device=device)
        x = torch.randn(40, 96, device=device)
        want = function(EinsumLinear(layer).double()(x.double())).float().detach()
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        for call in (layer, compiled):
            torch.testing.assert_close(call(x), want, rtol=0, atol=1e-5)
            with torch.no_grad():
                torch.testing.assert_close(call(x), want, rtol=0, atol=1e-5)
        test.assertTrue(layer(x).requires_grad)
        torch.compiler.reset()  # or too many layers would be compiled from one place


def gradients_agree(test, device, dtype, tolerance):
    """Those of the layer against autograd's through einsum in float64."""
    torch.manual_seed(3)
    for layout in ("first", "last"):
        layer = KSLinear(96, 144, patterns=CHAIN, layout=layout, device=device, dtype=dtype)
        twin = EinsumLinear(layer).double()
        x = torch.randn(40, 96, device=device, dtype=dtype)
        weight = torch.randn(40, 144, device=device, dtype=dtype)
        mine, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
        y = layer(mine.t()).t() if layout == "last" else layer(mine)
        (y * weight).sum().backward()
        (twin(theirs) * weight.double()).sum().backward()
        pairs = [(mine, theirs), (layer.bias, twin.bias), *zip(layer.factors, twin.factors)]
        for got, want in pairs:
            test.assertEqual(got.grad.shape, want.grad.shape)
            error = (got.grad.double() - want.grad).abs().max() / want.grad.abs().max()
            test.assertLess(float(error), tolerance)
        for factor in layer.factors:
            test.assertEqual(factor.grad.stride(), factor.stride())


def trains_like_einsum(test, device, dtype, steps, tolerance):
    """A small network on a task made up; the losses must go down together."""
    torch.manual_seed(11)
    x = torch.randn(256, 96, device=device, dtype=dtype)
    target = torch.sin(x @ torch.randn(96, 10, device=device, dtype=dtype) / 10)
    layer = KSLinear(96, 144, patterns=CHAIN, device=device, dtype=dtype)
    head = torch.nn.Linear(144, 10, device=device, dtype=dtype)
    twin_head = torch.nn.Linear(144, 10, device=device, dtype=dtype)
    twin_head.load_state_dict(head.state_dict())
    losses = []
    for model in (torch.nn.Sequential(layer, torch.nn.ReLU(), head),
                  torch.nn.Sequential(EinsumLinear(layer), torch.nn.ReLU(), twin_head)):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        history = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    test.assertLess(losses[0][-1], 0.2 * losses[0][0])
    for mine, theirs in zip(*losses):
        test.assertLess(abs(mine - theirs), tolerance * max(theirs, 1e-6) + tolerance * 1e-2)
