"""How long products by chains of factors take, planned as one and otherwise, on cuda:0 (or, to try it out, on a CPU).

    KSAUTO_LIBRARY=build/cuda/libksauto.so python3 tools/python/bench_chains.py [--plans] [--json OUT]

The chains are layers of the paper's networks (bench_networks.py), a Monarch matrix and a butterfly of radix 16. Each is timed by
replays of a CUDA graph, its inputs not in the GPU's caches, in turns; of small batches plain calls too, many in a row:

    dense     torch.matmul by the product of the factors
    einsum    factor by factor, by torch.einsum
    compiled  that through torch.compile, for each size anew; left out ("-") once --compile-s seconds have gone into it
    factors   factor by factor, each by the kernel that the library takes for it
    planned   as KSLinear does it
    takes     what KSLinear.for_inference takes where dense is allowed"""

import json
import math
import pathlib
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import ksauto
from bench_timing import TYPES, begin, einsum, error, graph_of, medians, options_of
from ksauto.torch import KSLinear, matmul

# As products, the last applied first.
CHAINS = {"ViT-S/16 up": [(1, 768, 192, 2), (6, 64, 64, 1)], "ViT-S/16 down": [(1, 128, 128, 3), (6, 64, 256, 1)],
          "GPT-2 down": [(1, 64, 64, 16), (16, 64, 256, 1)], "Monarch 1024": [(1, 32, 32, 32), (32, 32, 32, 1)],
          "butterfly 4096": [(1, 16, 16, 256), (16, 16, 16, 16), (256, 16, 16, 1)]}
BATCHES = (1, 16, 256, 4096, 25088)
WAYS = ("dense", "einsum", "compiled", "factors", "planned")
TOLERANCE = {"f32": 1e-5, "f16": 5e-3, "bf16": 4e-2}  # of the largest value


class Compiler:
    """torch.compile until its time is up."""

    def __init__(self, budget_s):
        self.left_s = budget_s

    def __call__(self, call):
        """The call compiled, and called; None where there is no time for it."""
        if self.left_s <= 0:
            return None
        begun = time.perf_counter()
        torch.compiler.reset()
        compiled = torch.compile(call, dynamic=False)
        compiled()
        self.left_s -= time.perf_counter() - begun
        return compiled


def ways_of(layer, x, compiler):
    """{way: call}"""
    factors = [factor.detach() for factor in layer.factors]
    plain, matrix = [factor.contiguous() for factor in factors], layer.dense().contiguous()

    def by(product, weights):
        y = x
        for k in reversed(weights):
            y = product(y, k)
        return y

    ways = {"dense": lambda: torch.matmul(x, matrix.t()), "einsum": lambda: by(einsum, plain), "compiled": None,
            "factors": lambda: by(matmul, factors), "planned": lambda: layer(x)}
    ways["compiled"] = compiler(ways["einsum"])
    return {way: call for way, call in ways.items() if call is not None}


def measure(layer, batch, options, compiler):
    """{"graph": {way: seconds}, "call": the same for small batches, "takes": dense or planned}"""
    device, dtype = torch.device(options.device), layer.factors[0].dtype
    x = torch.randn(batch, layer.in_features, device=device, dtype=dtype)
    ways = ways_of(layer, x, compiler)
    off = error(ways["planned"](), ways["einsum"]())
    name = next(name for name, each in TYPES.items() if each == dtype)
    if not off <= TOLERANCE[name]:
        raise SystemExit(f"{layer}, batch {batch}, {name}: planned is off by {off:.1e} of einsum's largest value")
    sweep = torch.empty(0 if device.type == "cpu" else 2 * torch.cuda.get_device_properties(device).L2_cache_size,
                        dtype=torch.int8, device=device)
    graphs = {way: graph_of(call, device) for way, call in ways.items()}
    found = {"graph": medians(graphs, device, options.runs, before=sweep.zero_), "call": {}, "error": off,
             "takes": "planned" if isinstance(layer.for_inference(batch), KSLinear) else "dense"}
    if batch <= 256:
        found["call"] = medians(ways, device, 5, count=20)
    return found


def line(found, batch):
    def times(by_way, ways):
        return " ".join(f"{by_way[way] * 1e6:8.1f}" if way in by_way else f"{'-':>8}" for way in ways)

    return (f"  {batch:6} {times(found['graph'], WAYS)}  {found['takes']:8}"
            + (f"|{times(found['call'], WAYS[2:3] + WAYS[:2] + WAYS[4:])}" if found["call"] else ""))


def summary(rows):
    """By type: the planned chain's time as a share of every other's, and the worst of what for_inference takes."""
    print("\nplanned's time by others', geometric means (of how many); the worst of what is taken, by dense's")
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        here = [row["graph"] for row in rows if row["dtype"] == dtype]
        shares = {way: [math.log(g["planned"] / g[way]) for g in here if way in g] for way in WAYS[:-1]}
        worst = max(row["graph"][row["takes"]] / row["graph"]["dense"] for row in rows if row["dtype"] == dtype)
        print(f"  {dtype:5} " + ", ".join(f"{way} {math.exp(sum(logs) / len(logs)):.3f} ({len(logs)})"
                                          for way, logs in shares.items() if logs) + f"; taken {worst:.3f}")


def main():
    parser = options_of(__doc__)
    parser.add_argument("--plans", action="store_true", help="print how the chains are done, with predicted times")
    parser.add_argument("--compile-s", type=float, default=100)
    options = parser.parse_args()
    device = torch.device(options.device)
    begin(device)
    print("us of a product; left replays of a CUDA graph, right plain calls")
    compiler, rows = Compiler(options.compile_s), []
    for title, patterns in CHAINS.items():
        print(f"\n{title}: " + "·".join("({},{},{},{})".format(*pattern) for pattern in patterns))
        (a, b, _, d), (a_in, _, c_in, d_in) = patterns[0], patterns[-1]
        for dtype in options.types.split(","):
            print(f"  {dtype:6} " + " ".join(f"{way:>8}" for way in WAYS) + f"  {'takes':8}|compiled    dense   einsum  planned")
            torch.manual_seed(0)
            layer = KSLinear(a_in * c_in * d_in, a * b * d, False, device, TYPES[dtype], patterns=patterns)
            for batch in BATCHES[:2] if options.small else BATCHES:
                with torch.inference_mode():
                    found = measure(layer, batch, options, compiler)
                print(line(found, batch), flush=True)
                rows.append({"chain": title, "dtype": dtype, "batch": batch, **found})
                if options.plans:
                    plan = ksauto.context(options.device).chain(layer.patterns, batch, dtype)
                    print("    " + str(plan).replace("\n", "\n    "))
    summary(rows)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
