"""Kronecker-sparse layers for PyTorch: KSLinear, a drop-in for torch.nn.Linear whose matrix is a product of KS factors, and the
operators that it is made of, torch.ops.ksauto.matmul and .grad_weights, with autograd and for torch.compile; where no gradient
is wanted, .chain, which plans all factors as one.

Everywhere here a factor's tensor has the shape (a, b, c, d), which is PyTorch code's and the paper's, and any strides. The
library reads weights in block order, (a, d, b, c), so a factor of KSLinear has the strides of that: its state_dict is
like everybody's, and no product copies it. A tensor in plain (a, b, c, d) order works too, at the price of a copy.

Nothing in a product waits for the GPU: work is queued on the current stream, and may be captured into a CUDA graph. Where no
gradient is wanted the library adds the bias and applies the activation, else operations of PyTorch's own."""

import copy
import functools
import math

import torch

from . import _library as ks
from ._context import as_pattern, context, problem_of
from ._factorise import factorise

__all__ = ["KSLinear", "matmul"]

# The library's activations, as PyTorch has them.
_ACTIVATIONS = {"relu": torch.nn.ReLU(), "gelu": torch.nn.GELU(), "gelu_tanh": torch.nn.GELU("tanh"), "silu": torch.nn.SiLU()}
_TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}

_library = torch.library.Library("ksauto", "DEF")
_library.define("matmul(Tensor x, Tensor k, bool last=False) -> Tensor")
_library.define("chain(Tensor x, Tensor[] factors, bool last=False, Tensor? bias=None, str? activation=None) -> Tensor")
_library.define("grad_weights(Tensor x, Tensor dy, SymInt[] pattern, bool last=False) -> Tensor")


@functools.lru_cache(maxsize=64)
def _name_of(device):
    return "cpu" if device.type == "cpu" else f"cuda:{device.index}"


def _stream_of(tensor):
    return None if tensor.device.type == "cpu" else torch.cuda.current_stream(tensor.device).cuda_stream


def _check_activation(activation):
    if activation is not None and activation not in _ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; valid: None, {', '.join(_ACTIVATIONS)}")


def _allows_tf32():
    """What torch.backends.cuda.matmul says, asked in the way of PyTorch 2.9 and later, or of earlier ones."""
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    return torch.backends.cuda.matmul.allow_tf32 if precision is None else precision == "tf32"


def _math(x):
    return "tf32" if x.dtype == torch.float32 and x.is_cuda and _allows_tf32() else "f32"


def _problem(x, pattern, batch, last):
    return problem_of(pattern, batch, _TYPES[x.dtype], ks.LAYOUTS[last], _math(x))


# The checks are plain statements: they are a good part of what a small product costs.

def _check_alike(x, *others):
    """One type, which is supported, and one device."""
    if x.dtype not in _TYPES:
        raise RuntimeError(f"ksauto: {x.dtype} is not supported; valid: {', '.join(map(str, _TYPES))}")
    for other in others:
        if x.dtype != other.dtype:
            raise RuntimeError(f"ksauto: tensors of two types, {x.dtype} and {other.dtype}")
        if x.device != other.device:
            raise RuntimeError(f"ksauto: tensors on two devices, {x.device} and {other.device}")


def _product_shape(shape, pattern, last):
    """What a product makes of a tensor's shape."""
    if len(pattern) != 4:
        raise RuntimeError(f"ksauto: weights have shape {tuple(pattern)}; valid: (a, b, c, d)")
    a, b, c, d = pattern
    if len(shape) < 1 or shape[0 if last else -1] != a * c * d:
        raise RuntimeError(f"ksauto: the {'first' if last else 'last'} dimension of {tuple(shape)} must be {a * c * d} for the "
                           f"pattern {tuple(pattern)}")
    return (a * b * d, *shape[1:]) if last else (*shape[:-1], a * b * d)


def _matmul_fake(x, k, last=False):
    _check_alike(x, k)
    return x.new_empty(_product_shape(x.shape, k.shape, last))


def _chain_shape(x, factors, last, bias, activation):
    _check_activation(activation)
    _check_alike(x, *factors, *(() if bias is None else (bias,)))
    shape = x.shape
    for k in reversed(factors):
        shape = _product_shape(shape, k.shape, last)
    if bias is not None and bias.shape != (shape[0 if last else -1],):
        raise RuntimeError(f"ksauto: the bias has shape {tuple(bias.shape)}; it must be {(shape[0 if last else -1],)}")
    return shape


def _chain_fake(x, factors, last=False, bias=None, activation=None):
    return x.new_empty(_chain_shape(x, factors, last, bias, activation))


def _block(k):
    """The weights in block order: without a copy where they lie so."""
    return k.permute(0, 3, 1, 2).contiguous()


def _matmul(x, k, last=False):
    y = _matmul_fake(x, k, last)
    batch = y.numel() // (k.shape[0] * k.shape[1] * k.shape[3])
    if batch:
        x, block = x.contiguous(), _block(k)
        context(_name_of(x.device)).run(_problem(x, k.shape, batch, last), "auto", x.data_ptr(), block.data_ptr(),
                                        y.data_ptr(), _stream_of(x))
    return y


def _prepare_chain(here, x, factors, last, bias, activation):
    """What _chain keeps: the shape of the result, the planned chain (None for no samples), and whether it can read the weights
    and the bias as they lie."""
    made = _chain_shape(x, factors, last, bias, activation)
    batch = x.numel() // x.shape[0 if last else -1]
    patterns = tuple(tuple(k.shape) for k in factors)
    chain = here.chain(patterns, batch, _TYPES[x.dtype], ks.LAYOUTS[last], _math(x)) if batch else None
    in_place = all(k.permute(0, 3, 1, 2).is_contiguous() for k in factors) and (bias is None or bias.is_contiguous())
    return made, chain, in_place


def _chain(x, factors, last=False, bias=None, activation=None):
    # Checks and plans depend on no values: they are made once and kept, or a small product would take less time than they.
    here = context(_name_of(x.device))
    key = [x.shape, x.dtype, last, activation, _math(x)]
    for k in factors:
        key += (k.shape, k.stride(), k.dtype, k.device)
    if bias is not None:
        key += (bias.shape, bias.stride(), bias.dtype, bias.device)
    made, chain, in_place = here.kept(tuple(key), _prepare_chain, here, x, factors, last, bias, activation)
    y = x.new_empty(made)
    if chain is not None:
        x = x.contiguous()
        if not in_place:
            factors, bias = [_block(k) for k in factors], None if bias is None else bias.contiguous()
        chain.run(x.data_ptr(), [k.data_ptr() for k in factors], y.data_ptr(), _stream_of(x),
                  None if bias is None else bias.data_ptr(), activation)
    return y


def _new_weights(like, pattern):
    """An empty tensor of shape (a, b, c, d) that lies in block order."""
    a, b, c, d = pattern
    return like.new_empty((a, d, b, c)).permute(0, 2, 3, 1)


def _grad_weights_fake(x, dy, pattern, last=False):
    _check_alike(x, dy)
    made = _product_shape(x.shape, pattern, last)
    if tuple(dy.shape) != tuple(made):
        raise RuntimeError(f"ksauto: dy has shape {tuple(dy.shape)}; it must be {tuple(made)}")
    return _new_weights(x, pattern)


def _grad_weights(x, dy, pattern, last=False):
    dk, (a, _, c, d) = _grad_weights_fake(x, dy, pattern, last), pattern
    batch = x.numel() // (a * c * d)
    if batch == 0:
        return dk.zero_()
    x, dy = x.contiguous(), dy.contiguous()
    context(_name_of(x.device)).grad_weights(_problem(x, tuple(pattern), batch, last), x.data_ptr(), dy.data_ptr(),
                                             dk.data_ptr(), _stream_of(x))
    return dk


for _device in ("CPU", "CUDA"):
    _library.impl("matmul", _matmul, _device)
    _library.impl("chain", _chain, _device)
    _library.impl("grad_weights", _grad_weights, _device)
torch.library.register_fake("ksauto::matmul", _matmul_fake, lib=_library)
torch.library.register_fake("ksauto::chain", _chain_fake, lib=_library)
torch.library.register_fake("ksauto::grad_weights", _grad_weights_fake, lib=_library)


# matmul and grad_weights are linear in each tensor, and their gradients are made of the two again: all derivatives exist.
# chain has none: what lies between its factors is not kept.

def _save_matmul(ctx, inputs, output):
    x, k, ctx.last = inputs
    ctx.save_for_backward(x, k)


def _matmul_backward(ctx, dy):
    x, k = ctx.saved_tensors
    dx = matmul(dy, k.transpose(1, 2), ctx.last) if ctx.needs_input_grad[0] else None
    dk = torch.ops.ksauto.grad_weights(x, dy, k.shape, ctx.last) if ctx.needs_input_grad[1] else None
    return dx, dk, None


def _save_grad_weights(ctx, inputs, output):
    x, dy, _, ctx.last = inputs
    ctx.save_for_backward(x, dy)


def _grad_weights_backward(ctx, g):
    x, dy = ctx.saved_tensors
    dx = matmul(dy, g.transpose(1, 2), ctx.last) if ctx.needs_input_grad[0] else None
    ddy = matmul(x, g, ctx.last) if ctx.needs_input_grad[1] else None
    return dx, ddy, None, None


torch.library.register_autograd("ksauto::matmul", _matmul_backward, setup_context=_save_matmul, lib=_library)
torch.library.register_autograd("ksauto::grad_weights", _grad_weights_backward, setup_context=_save_grad_weights, lib=_library)


def matmul(x, k, last=False):
    """y = x * transpose(K) by the path predicted fastest. x: (..., a*c*d), or with last (a*c*d, ...); k: (a, b, c, d).

    Float32 on a GPU is float32 accurate unless torch.backends.cuda.matmul allows TF32."""
    return torch.ops.ksauto.matmul(x, k, last)


def _in_block_order(factor, weights):
    """A tensor of shape (a, b, c, d) in the strides of block order, from one in either order."""
    ks.index("weights", ("abcd", "block"), weights)
    if factor.dim() != 4:
        raise ValueError(f"a factor has shape {tuple(factor.shape)}; valid: four dimensions, in the order that weights names")
    return (_block(factor) if weights == "abcd" else factor.contiguous()).permute(0, 2, 3, 1)


# What a layer does, of which the sharded one has its share.

def _as_autocast_wants(x, factors, bias):
    factors = list(factors)
    if torch.is_autocast_enabled(x.device.type) and x.is_floating_point() and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, factors = x.to(dtype), [factor.to(dtype) for factor in factors]
        bias = None if bias is None else bias.to(dtype)
    return x, factors, bias


def _wants_gradient(x, factors, bias):
    return torch.is_grad_enabled() and (x.requires_grad or any(factor.requires_grad for factor in factors)
                                        or (bias is not None and bias.requires_grad))


def _product(x, factors, bias, last, activation=None):
    """By all factors, then the bias and the activation, if there are such; planned as one where no gradient is wanted."""
    several = len(factors) > 1 or bias is not None or activation is not None
    if several and (bias is None or bias.dtype == x.dtype) and not _wants_gradient(x, factors, bias):
        return torch.ops.ksauto.chain.default(x, factors, last, bias, activation)
    for factor in reversed(factors):
        x = torch.ops.ksauto.matmul.default(x, factor, last)
    if bias is not None:
        x = x + (bias.view(-1, *[1] * (x.dim() - 1)) if last else bias)
    return x if activation is None else _ACTIVATIONS[activation](x)


class KSLinear(torch.nn.Module):
    """y = x * transpose(W) + bias with W = K_1 K_2 ... K_L, each K_i Kronecker-sparse: a drop-in for torch.nn.Linear.

    patterns    those of K_1 ... K_L as the product is written: the last is applied to x first. (The lists in the paper's scripts
                are in the order of application: reverse them.) Neighbours must fit, and the ends be in_features and
                out_features.
    layout      "first": x is (..., in_features), as for torch.nn.Linear; "last": x is (in_features, ...).
    activation  None, "relu", "gelu", "gelu_tanh" or "silu": applied behind the bias.

    The parameters are factors[0] ... factors[L-1], of shape (a, b, c, d), and bias. A new layer's outputs have the variance
    that torch.nn.Linear's have."""

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, *, patterns, layout="first",
                 activation=None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.patterns = tuple(as_pattern(pattern) for pattern in patterns)
        self.last = ks.index("layout", ks.LAYOUTS, layout) == 1
        _check_activation(activation)
        self.activation = activation
        self._check_fit()
        like = torch.empty(0, device=device, dtype=dtype)
        self.factors = torch.nn.ParameterList(_new_weights(like, pattern) for pattern in self.patterns)
        self.bias = torch.nn.Parameter(like.new_empty(out_features)) if bias else None
        self.reset_parameters()

    @classmethod
    def from_factors(cls, factors, bias=None, weights="abcd", layout="first", activation=None):
        """A layer that holds these tensors, K_1 ... K_L: of shape (a, b, c, d), as PyTorch code and the paper have them, or
        (a, d, b, c) where weights is "block"."""
        factors = [_in_block_order(factor.detach(), weights) for factor in factors]
        if not factors:
            raise ValueError("a layer needs at least one factor")
        a, b, _, d = factors[0].shape
        a_in, _, c_in, d_in = factors[-1].shape
        with torch.device("meta"):
            layer = cls(a_in * c_in * d_in, a * b * d, bias is not None, patterns=[f.shape for f in factors], layout=layout,
                        activation=activation)
        layer.factors = torch.nn.ParameterList(factors)
        layer.bias = None if bias is None else torch.nn.Parameter(bias.detach())
        return layer

    @classmethod
    def from_dense(cls, linear, patterns, layout="first", activation=None):
        """(layer, error): the layer of these patterns nearest to a torch.nn.Linear, or to a matrix, by ksauto.factorise."""
        weight, bias = (linear.weight, linear.bias) if isinstance(linear, torch.nn.Linear) else (linear, None)
        found = factorise(weight.detach().to("cpu", torch.float64).numpy(), patterns)
        factors = [torch.from_numpy(factor).to(weight.device, weight.dtype) for factor in found.factors]
        return cls.from_factors(factors, bias, layout=layout, activation=activation), found.error

    def _check_fit(self):
        sizes = [self.out_features]
        for a, b, c, d in self.patterns:
            if min(a, b, c, d) < 1:
                raise ValueError(f"pattern {(a, b, c, d)}: sizes must be at least 1")
            if a * b * d != sizes[-1]:
                raise ValueError(f"pattern {(a, b, c, d)} makes {a * b * d} features, but "
                                 + (f"out_features is {sizes[-1]}" if len(sizes) == 1 else f"the one before takes {sizes[-1]}"))
            sizes.append(a * c * d)
        if not self.patterns or sizes[-1] != self.in_features:
            raise ValueError(f"the patterns {self.patterns} take {sizes[-1]} features, but in_features is {self.in_features}")

    def reset_parameters(self):
        """Uniform numbers, of variance 1/c times the L-th root of torch.nn.Linear's 1/3 in each factor."""
        for factor in self.factors:
            bound = math.sqrt(3 / factor.shape[2]) * (1 / 3) ** (0.5 / len(self.factors))
            torch.nn.init.uniform_(factor, -bound, bound)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            torch.nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x):
        # Not through the ParameterList itself, which looks each up by name, slowly.
        return _product(*_as_autocast_wants(x, self.factors._parameters.values(), self.bias), self.last, self.activation)

    def dense(self):
        """W as a matrix of out_features x in_features, without bias and activation; differentiable."""
        x = torch.eye(self.in_features, dtype=self.factors[0].dtype, device=self.factors[0].device)
        for factor in reversed(self.factors):
            x = torch.ops.ksauto.matmul(x, factor, False)
        return x.t()

    def predicted_s(self, batch, dtype=None):
        """The predicted times in seconds of the factors' products and of the dense matrix's, for so many samples."""
        factor = self.factors[0]
        here, name = context(_name_of(factor.device)), _TYPES[dtype or factor.dtype]
        layout = "last" if self.last else "first"

        math = "tf32" if name == "f32" and _allows_tf32() else "f32"
        dense = (1, self.out_features, self.in_features, 1)
        return (here.chain(self.patterns, batch, name, layout, math).predicted_s,
                here.chain((dense,), batch, name, layout, math).predicted_s)

    def for_inference(self, batch, dtype=None, allow_dense=True):
        """This layer, or a torch.nn.Linear of the same matrix (and its activation behind it) where that is predicted faster for so
        many samples a call (and allow_dense, and the layout is "first"). For models whose weights stay as they are; layers in
        training keep factors."""
        sparse_s, dense_s = self.predicted_s(batch, dtype)
        if not allow_dense or self.last or sparse_s <= dense_s:
            return self
        weight = self.dense().detach()
        linear = torch.nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        linear.weight = torch.nn.Parameter(weight.contiguous())
        if self.bias is not None:
            linear.bias = torch.nn.Parameter(self.bias.detach())
        if self.activation is not None:
            linear = torch.nn.Sequential(linear, copy.deepcopy(_ACTIVATIONS[self.activation]))
        return linear.train(self.training)

    def extra_repr(self):
        product = " ".join("({},{},{},{})".format(*pattern) for pattern in self.patterns)
        return (f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
                f"patterns={product}, layout={'last' if self.last else 'first'}"
                + (f", activation={self.activation}" if self.activation else ""))
