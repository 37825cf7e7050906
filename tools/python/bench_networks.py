"""How long whole networks take with dense layers, and with KSLinears in their place, on cuda:0 (or, to try it out, on a CPU).

    pip install timm transformers
    KSAUTO_LIBRARY=build/cuda/libksauto.so python3 tools/python/bench_networks.py [--what vit,gpt2] [--json OUT]

The patterns are those of A. Gonon, L. Zheng, P. Carrivain, Q.-T. Le, "Fast Inference with Kronecker-Sparse Matrices", the
networks timm's vit_small_patch16_224 with 128 images and transformers' GPT-2 medium with 1024 tokens, with random weights:
nothing is downloaded. In ViT all linear layers of the blocks are replaced, in GPT-2 the second one of each MLP.

The whole forward pass is timed, medians of --runs replays of a CUDA graph and of half as many plain calls, in turns:

    dense     the library's own network
    einsum    the KSLinears' factors by torch.einsum
    ks        KSLinears; in ViT the GELU between two of them is the first one's activation
    ks+dense  what KSLinear.for_inference makes of them: dense layers where those are predicted faster
    free      for comparison: nothing in their places but a cut, or copies, of the input to the size of the output. No layer that
              takes these places can make the network faster than that

All but dense and free compute the same function; the largest difference to einsum is printed."""

import copy
import json
import pathlib
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import ksauto
from bench_timing import TYPES, begin, einsum, error, graph_of, medians, options_of
from ksauto.torch import KSLinear

# As products W = K_1 K_2, the last applied first.
ATTENTION = [(1, 192, 48, 2), (2, 48, 192, 1)]
UP, DOWN = [(1, 768, 192, 2), (6, 64, 64, 1)], [(1, 128, 128, 3), (6, 64, 256, 1)]
GPT2_DOWN = [(1, 64, 256, 16), (64, 64, 64, 1)], [(1, 64, 64, 16), (16, 64, 256, 1)]


class EinsumLinear(torch.nn.Module):
    """What a KSLinear computes, as people write it."""

    def __init__(self, layer):
        super().__init__()
        self.factors = torch.nn.ParameterList(factor.detach().contiguous() for factor in layer.factors)
        self.bias, self.activation = layer.bias, layer.activation

    def forward(self, x):
        for factor in reversed(self.factors):
            x = einsum(x, factor)
        x = x + self.bias
        return F.gelu(x) if self.activation == "gelu" else x


class FreeLinear(torch.nn.Module):
    """In a layer's place what costs next to nothing."""

    def __init__(self, layer):
        super().__init__()
        self.inputs, self.outputs = layer.in_features, layer.out_features

    def forward(self, x):
        if self.outputs > self.inputs:
            x = x.repeat(*[1] * (x.dim() - 1), -(-self.outputs // self.inputs))
        return x[..., :self.outputs]


class Attention(torch.nn.Module):
    """timm's attention (of ViT: no masks, no norms) with three KSLinears for query, key and value."""

    def __init__(self, theirs):
        super().__init__()
        self.theirs, self.qkv = theirs, torch.nn.ModuleList(KSLinear(384, 384, patterns=ATTENTION) for _ in range(3))
        theirs.proj = KSLinear(384, 384, patterns=ATTENTION)

    def forward(self, x, attn_mask=None, is_causal=False):
        q, k, v = (layer(x).view(*x.shape[:2], self.theirs.num_heads, -1).transpose(1, 2) for layer in self.qkv)
        return self.theirs.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def for_inference(self, rows):
        """Or timm's, with one dense layer for the three, where that is predicted faster."""
        one = self.theirs.qkv
        dense = KSLinear.from_factors([one.weight[None, :, :, None]])
        if 3 * self.qkv[0].predicted_s(rows)[0] <= dense.predicted_s(rows)[1]:
            return self
        with torch.no_grad():
            one.weight.copy_(torch.cat([layer.dense() for layer in self.qkv]))
            one.bias.copy_(torch.cat([layer.bias for layer in self.qkv]))
        return self.theirs


def vit_of(timm, small):
    """The network, and how its layers become KSLinears."""
    def replace(model):
        for block in model.blocks:
            block.attn, mlp = Attention(block.attn), block.mlp
            mlp.fc1, mlp.act = KSLinear(384, 1536, patterns=UP, activation="gelu"), torch.nn.Identity()
            mlp.fc2 = KSLinear(1536, 384, patterns=DOWN)

    return timm.create_model("vit_small_patch16_224", pretrained=False, **({"depth": 1} if small else {})), replace


def gpt2_of(transformers, patterns, activation, small):
    """While a graph is captured transformers writes out the causal mask, which PyTorch's fastest attention does not take; to an
    attention that it does not know it gives none, and the same function then asks for a causal one."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def replace(model):
        for block in model.transformer.h:
            block.mlp.c_proj = KSLinear(4096, 1024, patterns=patterns)

    transformers.AttentionInterface.register("causal", sdpa_attention_forward)
    config = transformers.GPT2Config(n_embd=1024, n_head=16, n_layer=1 if small else 24, activation_function=activation,
                                     attn_implementation="causal")
    return transformers.GPT2LMHeadModel(config), replace


def places(model, kind):
    """(parent, name, module) of all modules of the kind."""
    return [(parent, name, module) for parent in model.modules() for name, module in parent.named_children()
            if isinstance(module, kind)]


def variants_of(model, replace, rows, dtype):
    """{name: network}, all in the type; those behind the first have the same factors."""
    dense = copy.deepcopy(model).to(dtype)
    replace(model)
    ks = model.to(dtype)
    by_einsum, allowed, free = (copy.deepcopy(ks) for _ in range(3))
    for network, kind in (by_einsum, EinsumLinear), (free, FreeLinear):
        for parent, name, layer in places(network, KSLinear):
            setattr(parent, name, kind(layer))
    for kind in Attention, KSLinear:
        for parent, name, module in places(allowed, kind):
            setattr(parent, name, module.for_inference(rows))
    return {"dense": dense, "einsum": by_einsum, "ks": ks, "ks+dense": allowed, "free": free}


def written(patterns):
    return "·".join("({},{},{},{})".format(*pattern) for pattern in patterns)


def imported(name):
    try:
        return __import__(name)
    except ImportError as why:
        print(f"{name} is not there ({why}): its network is left out; pip install {name}")
        return None


def networks(what, device, small):
    """(title, build, rows of a layer, input by dtype, forward) of each."""
    timm = imported("timm") if "vit" in what else None
    images, tokens = (2, 64) if small else (128, 1024)
    if timm:
        yield (f"timm {timm.__version__}: ViT-S/16, {images} images\n"
               f"attention {written(ATTENTION)}, up {written(UP)}, down {written(DOWN)}", lambda: vit_of(timm, small), images * 197,
               lambda dtype: torch.randn(images, 3, 224, 224, device=device).to(dtype), lambda model, x: model(x))
    transformers = imported("transformers") if "gpt2" in what else None
    for patterns in GPT2_DOWN if transformers else ():
        for title, kept, activation in (("as it comes: logits of all tokens", 0, "gelu_new"),
                                        ("logits of the last token, GELU as one operation", 1, "gelu_pytorch_tanh")):
            yield (f"transformers {transformers.__version__}: GPT-2 medium, {tokens} tokens, {title}\n"
                   f"down-projection {written(patterns)}",
                   lambda patterns=patterns, activation=activation: gpt2_of(transformers, patterns, activation, small), tokens,
                   lambda dtype: torch.randint(50257, (1, tokens), device=device),
                   lambda model, x, kept=kept: model(x, use_cache=False, logits_to_keep=kept).logits)


def measure(models, x, forward, device, runs):
    """{name: (seconds of a graph's replay, of a plain call, the result's difference to einsum's)}"""
    calls = {name: lambda model=model: forward(model, x) for name, model in models.items()}
    results = {name: call().float() for name, call in calls.items()}
    graphs = {name: graph_of(call, device) for name, call in calls.items()}
    replayed, plain = medians(graphs, device, runs), medians(calls, device, runs // 2)
    return {name: (replayed[name], plain[name], error(results[name], results["einsum"])) for name in calls}


def main():
    parser = options_of(__doc__)
    parser.add_argument("--what", default="vit,gpt2")
    parser.add_argument("--plans", action="store_true", help="print how the layers are done, with predicted times")
    options = parser.parse_args()
    device = torch.device(options.device)
    begin(device)
    print("ms of a whole forward pass, share of dense; error: largest difference to einsum")
    rows = []
    for title, build, samples, draw, forward in networks(options.what.split(","), device, options.small):
        print(f"\n{title}\n{'graph':>24} {'plain call':>22} {'error':>17}  KSLinears", flush=True)
        for dtype in options.types.split(","):
            torch.manual_seed(0)
            with torch.device(device), torch.inference_mode():
                model, replace = build()
                models = variants_of(model.eval(), replace, samples, TYPES[dtype])
                measured = measure(models, draw(TYPES[dtype]), forward, device, options.runs)
            dense = measured["dense"]
            for name, (graph_s, call_s, off) in measured.items():
                left = len(places(models[name], KSLinear))
                print(f"  {dtype:5} {name:8} {graph_s * 1e3:9.3f} ({graph_s / dense[0]:5.3f}) {call_s * 1e3:12.3f} "
                      f"({call_s / dense[1]:5.3f})" + ("" if name in ("dense", "einsum", "free") else f" {off:9.1e}  {left}"), flush=True)
                rows.append({"network": title, "dtype": dtype, "variant": name, "graph_s": graph_s, "call_s": call_s,
                             "error": off, "ks_layers": left})
            if options.plans:
                patterns = dict.fromkeys(layer.patterns for _, _, layer in places(models["ks"], KSLinear))
                for plan in (str(ksauto.context(options.device).chain(each, samples, dtype)) for each in patterns):
                    print("    " + plan.replace("\n", "\n    "))
            del models, model
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
