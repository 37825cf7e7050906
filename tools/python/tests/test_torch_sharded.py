"""ShardedKSLinear: 1 to 4 processes against the whole layer in each of them, by gloo on the CPU, and by NCCL on two GPUs.

    python3 test_torch_sharded.py          # finds the package beside itself, and the library by KSAUTO_LIBRARY
    KSAUTO_LIBRARY=build/cuda/libksauto.so python3 test_torch_sharded.py Nccl

Exits 77 where there is no PyTorch, or one without torch.distributed, which CTest counts as skipped."""

import datetime
import os
import pathlib
import sys
import tempfile
import unittest

try:
    import torch
    import torch.distributed as dist
except ImportError:
    print("skipped: no PyTorch for this Python")
    sys.exit(77)
if not (dist.is_available() and dist.is_gloo_available()):
    print("skipped: PyTorch has no torch.distributed")
    sys.exit(77)

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1])]
os.environ.setdefault("KSAUTO_DB", os.path.join(tempfile.mkdtemp(), "none.db"))
import torch_cases as cases
from ksauto.sharded import ShardedKSLinear, _check_splits, _planned
from ksauto.torch import KSLinear

# Patterns that 1, 2, 3 and 4 ranks can share, and how they are split then: over one axis, over both with an all-to-all.
LAYERS = [([(48, 3, 9, 1)], "a"), ([(1, 9, 3, 48)], "d"), ([(12, 4, 3, 12)], "a"), ([(12, 4, 3, 12)], "d"),
          ([(1, 12, 24, 12), (12, 24, 12, 1)], "da"), ([(12, 12, 24, 1), (1, 24, 12, 12)], "ad"),
          ([(1, 3, 3, 48), (2, 3, 6, 24), (12, 12, 12, 2), (24, 12, 6, 1)], "ddaa")]


def whole_layer(patterns, device="cpu", dtype=torch.float64, **options):
    torch.manual_seed(7)
    (a, b, _, d), (a_in, _, c_in, d_in) = patterns[0], patterns[-1]
    return KSLinear(a_in * c_in * d_in, a * b * d, patterns=patterns, device=device, dtype=dtype, **options)


def part_of(t, dim, part, rank, ranks):
    """What a rank holds, by its definition."""
    size = t.shape[dim]
    chosen = {"whole": range(size), "block": range(rank * size // ranks, (rank + 1) * size // ranks),
              "cyclic": range(rank, size, ranks)}[part]
    return t.index_select(dim, torch.tensor(list(chosen), device=t.device))


def weights_of(layer, t, name, rank, ranks):
    """The part of a whole parameter's gradient that the rank has."""
    axis = layer.splits[0 if name == "bias" else int(name[-1])]
    return part_of(t, 0 if name == "bias" or axis == "a" else 3, "block" if axis == "a" else "cyclic", rank, ranks)


def close(got, want):
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 1e-2}[got.dtype]
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * max(1.0, float(want.detach().abs().max())))


def check_layer(patterns, splits, takes, gives, layout, rank, ranks, device, dtype, bias=True):
    """Outputs and all gradients, against those of the whole layer."""
    layer = whole_layer(patterns, device, dtype, layout=layout, bias=bias)
    mine = ShardedKSLinear(layer, takes=takes, gives=gives, splits=splits)
    dim = 0 if layout == "last" else 2
    x = torch.randn((layer.in_features, 3, 5) if dim == 0 else (3, 5, layer.in_features), device=device, dtype=dtype)
    x_mine = part_of(x, dim, takes, rank, ranks).requires_grad_()
    y = layer(x.requires_grad_())
    y_mine = mine(x_mine)
    close(y_mine, part_of(y, dim, gives, rank, ranks))
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    (y_mine * part_of(weight, dim, gives, rank, ranks)).sum().backward()
    close(x_mine.grad, part_of(x.grad, dim, takes, rank, ranks))
    for (name, p), (_, p_mine) in zip(layer.named_parameters(), mine.named_parameters()):
        assert p_mine.numel() * ranks == p.numel()
        close(p_mine.grad, weights_of(mine, p.grad, name, rank, ranks))
    with torch.no_grad():  # the planned chain
        close(mine(x_mine), part_of(y, dim, gives, rank, ranks))


def check_activation(rank, ranks, device):
    """Applied once, behind the bias, on each rank's part."""
    layer = whole_layer(LAYERS[4][0], device, activation="gelu")
    mine = ShardedKSLinear(layer, splits="da", gives="block")
    x = torch.randn(5, layer.in_features, device=device, dtype=torch.float64)
    close(mine(x), part_of(layer(x), 1, "block", rank, ranks))
    assert mine.unshard().activation == "gelu"


def check_state(rank, ranks, device):
    patterns, splits = LAYERS[4]
    layer, other = whole_layer(patterns, device), whole_layer(patterns, device)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(torch.nan)
    mine, filled = ShardedKSLinear(layer, splits=splits), ShardedKSLinear(other, splits=splits)
    filled.load_whole_state_dict(layer.state_dict())
    for a, b in zip(mine.parameters(), filled.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert a.untyped_storage().nbytes() == a.numel() * a.element_size()  # a copy of its part, and not a view of the whole
    for factor in filled.factors:
        assert factor.permute(0, 3, 1, 2).is_contiguous()  # nothing is copied at a product
    other.load_state_dict(filled.whole_state_dict())
    for again in (other, filled.unshard()):
        for a, b in zip(layer.parameters(), again.parameters()):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    filled.load_state_dict(mine.state_dict())  # a rank's own, as a checkpoint of each rank has it
    if ranks > 1:
        try:
            filled.load_whole_state_dict(mine.state_dict())
            raise AssertionError("a part was taken for the whole")
        except ValueError as error:
            assert "the whole one has" in str(error), error
    try:
        filled.load_whole_state_dict({**layer.state_dict(), "scale": torch.ones(1)})
        raise AssertionError("an unknown name was taken")
    except RuntimeError as error:
        assert "scale" in str(error), error


def check_second_derivatives(device):
    """Those of a penalty on dL/dx, through an all-to-all and both ends."""
    layer = whole_layer(LAYERS[4][0], device)
    mine = ShardedKSLinear(layer, splits="da")
    x = torch.randn(5, layer.in_features, device=device, dtype=torch.float64)
    grads = []
    for module in (layer, mine):
        leaf = x.clone().requires_grad_()
        g, = torch.autograd.grad(module(leaf).pow(3).sum(), leaf, create_graph=True)
        g.square().sum().backward()
        grads.append(leaf.grad)
    close(grads[1], grads[0])
    for name, p in mine.named_parameters():
        close(p.grad, weights_of(mine, layer.get_parameter(name).grad, name, mine.rank, mine.ranks))


def check_network(device):
    """Two layers with an activation between them, parts handed on, trained for some steps: the whole network's losses."""
    first, second = whole_layer([(12, 4, 3, 12)], device), whole_layer([(1, 5, 48, 12)], device)
    torch.manual_seed(3)
    x = torch.randn(16, first.in_features, device=device, dtype=torch.float64)
    target = torch.randn(16, second.out_features, device=device, dtype=torch.float64)
    whole = torch.nn.Sequential(first, torch.nn.GELU(), second)
    shards = torch.nn.Sequential(ShardedKSLinear(first, gives="cyclic"), torch.nn.GELU(), ShardedKSLinear(second, takes="cyclic"))
    assert "".join(shards[0].splits + shards[2].splits) == "dd"
    losses = []
    for model in (shards, whole):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        history = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[0][-1] < 0.9 * losses[0][0]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-9, atol=0)


def check_autocast_and_compile(device):
    layer = whole_layer(LAYERS[4][0], device, torch.float32)
    mine = ShardedKSLinear(layer, splits="da")
    x = torch.randn(40, layer.in_features, device=device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        y = mine(x)
    assert y.dtype == torch.bfloat16
    close(y, layer(x).to(torch.bfloat16))
    compiled = torch.compile(mine, backend="aot_eager", fullgraph=True)
    close(compiled(x), layer(x))
    compiled(x).square().sum().backward()
    layer(x).square().sum().backward()
    for name, p in mine.named_parameters():
        close(p.grad, weights_of(mine, layer.get_parameter(name).grad, name, mine.rank, mine.ranks))


def check_subgroup(rank, ranks, device):
    """A group of some of the ranks, with a rank that is not in it."""
    group = dist.new_group(list(range(ranks - 1)))
    layer = whole_layer([(12, 3, 5, 1)], device)
    x = torch.randn(4, layer.in_features, device=device, dtype=torch.float64)
    if rank < ranks - 1:
        close(ShardedKSLinear(layer, group)(x), layer(x))
        return
    try:
        ShardedKSLinear(layer, group)
        raise AssertionError("a rank outside of the group got a part")
    except ValueError as error:
        assert "not in the group" in str(error), error


def worker(rank, ranks, backend, file):
    os.environ["KSAUTO_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    device = f"cuda:{rank}" if backend == "nccl" else "cpu"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    patience = datetime.timedelta(minutes=1 if backend == "nccl" else 10)  # a rank that hangs holds GPUs; a busy CPU is slow
    dist.init_process_group(backend, init_method=f"file://{file}", rank=rank, world_size=ranks, timeout=patience)
    for patterns, splits in LAYERS:
        for takes, gives, layout in (("whole", "whole", "first"), ("block", "cyclic", "last"), ("cyclic", "block", "first")):
            check_layer(patterns, splits, takes, gives, layout, rank, ranks, device, torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        check_layer(*LAYERS[4], "whole", "whole", "first", rank, ranks, device, dtype, bias=False)
    check_activation(rank, ranks, device)
    check_state(rank, ranks, device)
    check_second_derivatives(device)
    check_network(device)
    check_autocast_and_compile(device)
    if ranks > 1:
        check_subgroup(rank, ranks, device)
    dist.destroy_process_group()


def spawn(ranks, backend):
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(worker, (ranks, backend, os.path.join(folder, "ranks")), nprocs=ranks)


class Gloo(unittest.TestCase):
    def test_against_one_process(self):
        for ranks in (1, 2, 3, 4):
            with self.subTest(ranks=ranks):
                spawn(ranks, "gloo")


@unittest.skipUnless(torch.cuda.device_count() >= 2 and dist.is_nccl_available(), "needs two GPUs, and NCCL")
class Nccl(unittest.TestCase):
    def test_two_gpus(self):
        spawn(2, "nccl")


class Splits(unittest.TestCase):
    def test_what_moves_least_is_planned(self):
        for patterns, ranks, takes, gives, want in (
                ([(4, 8, 8, 4)], 4, "whole", "whole", "a"), ([(4, 8, 8, 4)], 4, "cyclic", "whole", "d"),
                ([(4, 8, 8, 4)], 4, "whole", "cyclic", "d"), ([(1, 8, 8, 8), (8, 8, 8, 1)], 2, "whole", "whole", "da"),
                ([(2, 2, 2, 4), (4, 2, 2, 2), (8, 2, 2, 1)], 2, "whole", "whole", "aaa"),
                ([(1, 2, 2, 8), (2, 2, 2, 4), (4, 2, 2, 2)], 2, "whole", "whole", "ddd")):
            sizes = patterns[-1]
            got = _planned(patterns, sizes[0] * sizes[2] * sizes[3], ranks, takes, gives)
            self.assertEqual("".join(got), want, (patterns, takes, gives))

    def test_what_cannot_be_split_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group("gloo", init_method=f"file://{folder}/one", rank=0, world_size=1)
            layer = whole_layer([(1, 24, 8, 6), (3, 16, 32, 1)])
            for options, text in (({"takes": "none"}, "takes is 'none'; valid: whole, block, cyclic"),
                                  ({"gives": 1}, "gives is 1"), ({"splits": "a"}, "1 axes, but there are 2 factors"),
                                  ({"splits": "ab"}, "splits\\[1\\] is 'b'; valid: a, d")):
                with self.assertRaisesRegex(ValueError, text):
                    ShardedKSLinear(layer, **options)
            dist.destroy_process_group()
        patterns = layer.patterns
        for ranks, splits, text in ((2, "da", "factors\\[1\\] .*\\(3, 16, 32, 1\\) cannot be split over a: a = 3 is no multiple"),
                                    (5, "da", "a: a = 3 is no multiple of the 5"), (3, "dd", "over d: d = 1")):
            with self.assertRaisesRegex(ValueError, text):
                _check_splits(patterns, splits, 96, ranks, "whole", "whole")
        with self.assertRaisesRegex(ValueError, "between factors\\[1\\] and factors\\[0\\]: 144 features .* no multiple of 9 x 9"):
            _check_splits([(1, 24, 16, 9), (9, 16, 32, 1)], "da", 288, 9, "whole", "whole")
        for ranks, text in ((2, "factors\\[1\\] of pattern \\(3, 16, 32, 1\\) cannot be split over 2 ranks: neither a = 3 nor d = 1"),
                            (7, "neither")):
            with self.assertRaisesRegex(ValueError, text):
                _planned(patterns, 96, ranks, "whole", "whole")


if __name__ == "__main__":
    unittest.main()
