"""How long networks take with dense layers and with KSLinear in their place, on cuda:0 (or, to try it out, on the CPU).

    KSAUTO_LIBRARY=build/cuda/libksauto.so python3 tools/python/bench_torch.py [--what layers,vit,gpt2] [--json OUT]

The patterns are those of A. Gonon, L. Zheng, P. Carrivain, Q.-T. Le, "Fast Inference with Kronecker-Sparse Matrices": ViT-S/16
with batch 128 and GPT-2 medium with 1024 tokens, whose networks are written out here with random weights, so that nothing but
PyTorch is needed. Of each network the whole forward pass is timed: median of --runs replays of a CUDA graph, and of plain calls,
in float32 with TF32 off, float16 and bfloat16. `ks` are KSLinears; `ks+dense` those that KSLinear.for_inference leaves where
a dense layer is predicted faster; `factors` the same with each factor chosen by itself instead of as a chain; `einsum` the
factors by torch.einsum; `compiled` that through torch.compile."""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import ksauto
from ksauto.torch import KSLinear, matmul

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# As products W = K_1 K_2, the last applied first.
VIT = {"attention": [(1, 192, 48, 2), (2, 48, 192, 1)], "up": [(1, 768, 192, 2), (6, 64, 64, 1)],
       "down": [(1, 128, 128, 3), (6, 64, 256, 1)]}
GPT2 = {"down 1": [(1, 64, 256, 16), (64, 64, 64, 1)], "down 2": [(1, 64, 64, 16), (16, 64, 256, 1)]}


class EinsumLinear(torch.nn.Module):
    """The factors of a KSLinear as people write them."""

    def __init__(self, layer):
        super().__init__()
        self.factors, self.bias = [f.detach().contiguous() for f in layer.factors], layer.bias

    def forward(self, x):
        for k in reversed(self.factors):
            a, b, c, d = k.shape
            shape = x.shape[:-1]
            x = torch.einsum("ajkl,...akl->...ajl", k, x.reshape(*shape, a, c, d)).reshape(*shape, a * b * d)
        return x + self.bias


class FactorsLinear(EinsumLinear):
    """The factors one after the other, each in the layer's layout."""

    def __init__(self, layer):
        super().__init__(layer)
        self.factors = [f.detach() for f in layer.factors]

    def forward(self, x):
        for k in reversed(self.factors):
            x = matmul(x, k)
        return x + self.bias


class Maker:
    """Makes the layers of one variant of a network."""

    def __init__(self, variant, patterns, rows, device, dtype):
        self.variant, self.patterns, self.rows, self.options = variant, patterns, rows, {"device": device, "dtype": dtype}

    def __call__(self, kind, inputs, outputs):
        if self.variant == "dense" or kind not in self.patterns:
            return torch.nn.Linear(inputs, outputs, **self.options)
        layer = KSLinear(inputs, outputs, patterns=self.patterns[kind], **self.options)
        if self.variant in ("einsum", "compiled"):
            return EinsumLinear(layer)
        if self.variant == "factors":
            return FactorsLinear(layer)
        return layer.for_inference(self.rows) if self.variant == "ks+dense" else layer


class Block(torch.nn.Module):
    """A pre-norm block of a transformer."""

    def __init__(self, make, width, heads, hidden, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = (torch.nn.LayerNorm(width, **make.options) for _ in range(2))
        self.query, self.key, self.value, self.out = (make("attention", width, width) for _ in range(4))
        self.up, self.down = make("up", width, hidden), make("down", hidden, width)

    def forward(self, x):
        n, t, w = x.shape
        h = self.norm1(x)
        q, k, v = (m(h).view(n, t, self.heads, w // self.heads).transpose(1, 2) for m in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).reshape(n, t, w)
        x = x + self.out(h)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ViT(torch.nn.Module):
    """ViT-S/16 on images of 224 x 224: 196 patches and a class token, 12 blocks of width 384."""

    def __init__(self, make):
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 384, 16, 16, **make.options)
        self.first = torch.nn.Parameter(torch.randn(1, 1, 384, **make.options))
        self.place = torch.nn.Parameter(torch.randn(1, 197, 384, **make.options))
        self.blocks = torch.nn.Sequential(*(Block(make, 384, 6, 1536, False) for _ in range(12)))
        self.norm, self.head = torch.nn.LayerNorm(384, **make.options), torch.nn.Linear(384, 1000, **make.options)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPT(torch.nn.Module):
    """GPT-2 medium: 24 blocks of width 1024; the logits of the last token, as in generating text."""

    def __init__(self, make, tokens):
        super().__init__()
        self.word, self.place = (torch.nn.Embedding(count, 1024, **make.options) for count in (50257, tokens))
        self.blocks = torch.nn.Sequential(*(Block(make, 1024, 16, 4096, True) for _ in range(24)))
        self.norm, self.head = torch.nn.LayerNorm(1024, **make.options), torch.nn.Linear(1024, 50257, **make.options)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.word(x) + self.place.weight[:x.shape[1]]))[:, -1])


def medians(model, x, runs):
    """Seconds of a replayed CUDA graph (None on the CPU) and of a plain call."""
    with torch.inference_mode():
        for _ in range(3):
            model(x)
        if x.device.type == "cpu":
            times = []
            for _ in range(runs):
                begun = time.perf_counter()
                model(x)
                times.append(time.perf_counter() - begun)
            return None, statistics.median(times)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(x)
        results = []
        for call in (graph.replay, lambda: model(x)):
            times = []
            for run in range(runs + 3):
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                stop.record()
                torch.cuda.synchronize()
                times.append(start.elapsed_time(stop) / 1e3)
            results.append(statistics.median(times[3:]))
        return tuple(results)


def cases(what, device, small):
    """(name, patterns, rows of a layer, builder, input) of everything to be timed."""
    images, tokens = (2, 64) if small else (128, 1024)
    if "layers" in what:
        rows = 394 if small else 25216
        for name, kinds, count in (("vit", VIT, rows), ("gpt2", GPT2, tokens)):
            for kind, patterns in kinds.items():
                inputs = patterns[-1][0] * patterns[-1][2] * patterns[-1][3]
                outputs = patterns[0][0] * patterns[0][1] * patterns[0][3]
                yield (f"{name} {kind}", {"layer": patterns}, count,
                       lambda make, i=inputs, o=outputs: make("layer", i, o),
                       lambda dtype, n=count, i=inputs: torch.randn(n, i, device=device, dtype=dtype))
    if "vit" in what:
        yield ("ViT-S/16", VIT, images * 197, ViT,
               lambda dtype: torch.randn(images, 3, 224, 224, device=device, dtype=dtype))
    for number, down in enumerate(GPT2.values() if "gpt2" in what else (), 1):
        yield (f"GPT-2 medium {number}", {"down": down}, tokens, lambda make: GPT(make, tokens),
               lambda dtype: torch.randint(50257, (1, tokens), device=device))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="layers,vit,gpt2")
    parser.add_argument("--types", default="f32,f16,bf16")
    parser.add_argument("--variants", default="dense,ks,ks+dense,factors,einsum")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="small batches: to see that it runs")
    parser.add_argument("--plans", action="store_true", help="print how the layers are done, with predicted times")
    parser.add_argument("--json", help="write the rows there")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, ksauto {ksauto.__version__}; times in ms, share of dense in brackets")
    rows = []
    for what, patterns, count, build, draw in cases(options.what.split(","), device, options.small):
        for dtype in options.types.split(","):
            dense = None
            for variant in options.variants.split(","):
                torch.manual_seed(0)
                model = build(Maker(variant, patterns, count, device, TYPES[dtype])).eval()
                if variant == "compiled":
                    model = torch.compile(model)
                graph_s, call_s = medians(model, draw(TYPES[dtype]), options.runs)
                kept = sum(isinstance(module, KSLinear) for module in model.modules())
                best = call_s if graph_s is None else graph_s
                dense = best if variant == "dense" else dense
                row = {"what": what, "dtype": dtype, "variant": variant, "graph_s": graph_s, "call_s": call_s, "ks_layers": kept}
                rows.append(row)
                print(f"{what:15} {dtype:5} {variant:9} {best * 1e3:9.3f}"
                      + (f" ({best / dense:5.2f})" if dense else "")
                      + (f"  plain call {call_s * 1e3:9.3f}" if graph_s is not None else "")
                      + (f"  {kept} KSLinear" if "ks" in variant else ""), flush=True)
                if variant == "ks" and options.plans and isinstance(model, KSLinear):
                    layer = ksauto.context(options.device).chain(model.patterns, count, dtype)
                    print("    " + str(layer).replace("\n", "\n    "))
                del model
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
