"""KSLinear over several devices: ShardedKSLinear holds one rank's part of every factor, and of the bias.

A factor of pattern (a, b, c, d) is a*d dense blocks that share nothing, so its product splits without any sum over ranks. Of R
ranks, each takes

    over a:  a/R super-blocks that follow each other; it needs, and makes, a *block* of the features: the r-th of R
    over d:  every R-th l; it needs, and makes, the features r, r + R, r + 2R ...: a *cyclic* part

Every block of features fits every factor that is split over a, and every cyclic part every one that is split over d. So ranks talk
only where neighbouring factors are split differently (an all-to-all) and at the ends, where the caller has or wants all features
on every rank (an all-gather). All of it is torch.distributed's, by any backend, and has gradients of all orders.

Data parallelism needs nothing of this: DistributedDataParallel takes a KSLinear as it is. The two together are a grid of ranks:
ShardedKSLinear along its rows, and DistributedDataParallel along its columns, whose ranks hold the same part."""

import torch
import torch.distributed as dist

from . import _library as ks
from .torch import KSLinear, _as_autocast_wants, _new_weights, _product

__all__ = ["ShardedKSLinear"]

PARTS = ("block", "cyclic")
ENDS = ("whole", *PARTS)
_PART_OF = {"a": "block", "d": "cyclic"}
_AXIS = {"a": 0, "d": 3}  # of a factor's shape (a, b, c, d)


# Parts of a dimension, for features and for weights alike: all of them stacked in front, and back.

def _pieces(t, dim, part, ranks):
    """(ranks, ...): the parts of every rank."""
    block = part == "block"
    return t.unflatten(dim, (ranks, -1) if block else (-1, ranks)).movedim(dim if block else dim + 1, 0)


def _joined(pieces, dim, part):
    """What _pieces was made from."""
    return pieces.movedim(0, dim if part == "block" else dim + 1).flatten(dim, dim + 1)


def _gathered(mine, dim, part, group):
    """The whole tensor on every rank, from the rank's part."""
    mine = mine.contiguous()
    pieces = mine.new_empty((dist.get_world_size(group), *mine.shape))
    dist.all_gather_into_tensor(pieces.flatten(0, 1), mine, group=group)
    return _joined(pieces, dim, part)


# How features move between ranks. Each is the backward of one of them, so derivatives of all orders exist. Where all features are
# on every rank ("whole"), so is their gradient: every rank computes the same loss from them.

class _Take(torch.autograd.Function):
    """From whole to the rank's part: nothing moves; backward, an all-gather."""

    @staticmethod
    def forward(ctx, x, dim, part, group):
        ctx.how = dim, part, group
        return _pieces(x, dim, part, dist.get_world_size(group))[dist.get_rank(group)].contiguous()

    @staticmethod
    def backward(ctx, g):
        return _Gather.apply(g, *ctx.how), None, None, None


class _Gather(torch.autograd.Function):
    """From the rank's part to whole: an all-gather; backward, nothing moves."""

    @staticmethod
    def forward(ctx, x, dim, part, group):
        ctx.how = dim, part, group
        return _gathered(x, dim, part, group)

    @staticmethod
    def backward(ctx, g):
        return _Take.apply(g, *ctx.how), None, None, None


class _Exchange(torch.autograd.Function):
    """From a part of one kind to one of the other: an all-to-all, and backward another."""

    @staticmethod
    def forward(ctx, x, dim, had, wanted, group):
        ctx.how = dim, wanted, had, group
        sent = _pieces(x, dim, wanted, dist.get_world_size(group)).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return _joined(received, dim, had)

    @staticmethod
    def backward(ctx, g):
        return _Exchange.apply(g, *ctx.how), None, None, None, None


def _moved(x, dim, had, wanted, group):
    """x with the features that `wanted` says, of whom there are those that `had` says."""
    if had == wanted or dist.get_world_size(group) == 1:
        return x
    if had == "whole":
        return _Take.apply(x, dim, wanted, group)
    if wanted == "whole":
        return _Gather.apply(x, dim, had, group)
    return _Exchange.apply(x, dim, had, wanted, group)


# Where to split.

def _exchanges(had, wanted):
    return {had, wanted} == set(PARTS)


def _check_exchange(features, where, ranks):
    if features % ranks**2:
        raise ValueError(f"{where}: {features} features go from one kind of part to the other, all-to-all, and {features} is no "
                         f"multiple of {ranks} x {ranks}, the ranks squared")


def _allowed(pattern, ranks):
    """The axes that a factor can be split over."""
    return [axis for axis in "ad" if pattern[_AXIS[axis]] % ranks == 0]


def _made(pattern):
    a, b, _, d = pattern
    return a * b * d


def _planned(patterns, in_features, ranks, takes, gives):
    """For each factor the axis to split it over, so that the fewest features move; a where it makes no difference."""
    def moving(had, wanted, features):
        if not _exchanges(had, wanted):
            return 0
        return features if features % ranks**2 == 0 else float("inf")

    best = {takes: (0, ())}  # what the features are split by: features moved until here, and the axes, the first applied last
    features = in_features
    for index in reversed(range(len(patterns))):
        pattern = patterns[index]
        axes = _allowed(pattern, ranks)
        if not axes:
            raise ValueError(f"factors[{index}] of pattern {pattern} cannot be split over {ranks} ranks: neither a = {pattern[0]} "
                             f"nor d = {pattern[3]} is a multiple of {ranks}")
        best = {_PART_OF[axis]: min((moved + moving(had, _PART_OF[axis], features), (axis, *taken))
                                    for had, (moved, taken) in best.items()) for axis in axes}
        features = _made(pattern)
    return min((moved + moving(had, gives, features), taken) for had, (moved, taken) in best.items())[1]


def _check_splits(patterns, splits, in_features, ranks, takes, gives):
    """Whether the splits can be: else ValueError says where not, and for what number."""
    if len(splits) != len(patterns):
        raise ValueError(f"splits names {len(splits)} axes, but there are {len(patterns)} factors")
    had, features, where = takes, in_features, "the input"
    for index in reversed(range(len(patterns))):
        axis = splits[index]
        ks.index(f"splits[{index}]", tuple(_AXIS), axis)
        if axis not in _allowed(patterns[index], ranks):
            raise ValueError(f"factors[{index}] of pattern {patterns[index]} cannot be split over {axis}: {axis} = "
                             f"{patterns[index][_AXIS[axis]]} is no multiple of the {ranks} ranks")
        if _exchanges(had, _PART_OF[axis]):
            _check_exchange(features, f"between {where} and factors[{index}]", ranks)
        had, features, where = _PART_OF[axis], _made(patterns[index]), f"factors[{index}]"
    if _exchanges(had, gives):
        _check_exchange(features, f"between {where} and the output", ranks)


class ShardedKSLinear(torch.nn.Module):
    """This rank's part of a KSLinear: the same product and the same gradients, with 1/R of the weights and of the work.

    layer   the KSLinear, on every rank of the group. Each takes its slices of it: where the ranks' layers are not the same (no
            common seed, no checkpoint) the result is as random as one of them.
    group   the process group, one rank a device; None: all ranks.
    takes   what of its features x has on a rank: "whole", all; "block", the rank-th of R blocks; "cyclic", every R-th from the
            rank on (x[..., rank::R]).
    gives   the same of what is returned. A layer that gives a part may feed one that takes it, with activations between them.
    splits  "a" or "d" for each of K_1 ... K_L; None: so that the fewest features move between ranks. A factor is refused
            (ValueError) where its a, or d, is no multiple of R.

    With whole features at an end, every rank must have the same x, and compute the same loss. Ranks must call forward and
    backward in the same order, as with every collective."""

    def __init__(self, layer, group=None, *, takes="whole", gives="whole", splits=None):
        super().__init__()
        self.group, self.ranks, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        if self.rank < 0:
            raise ValueError("this process is not in the group")
        ks.index("takes", ENDS, takes), ks.index("gives", ENDS, gives)
        self.in_features, self.out_features, self.patterns = layer.in_features, layer.out_features, layer.patterns
        self.last, self.activation, self.takes, self.gives = layer.last, layer.activation, takes, gives
        if splits is None:
            splits = _planned(self.patterns, self.in_features, self.ranks, takes, gives)
        _check_splits(self.patterns, splits, self.in_features, self.ranks, takes, gives)
        self.splits = tuple(splits)
        self.factors = torch.nn.ParameterList(
            torch.nn.Parameter(self._part(f"factors.{index}", factor.detach()), factor.requires_grad)
            for index, factor in enumerate(layer.factors))
        self.bias = None
        if layer.bias is not None:
            self.bias = torch.nn.Parameter(self._part("bias", layer.bias.detach()), layer.bias.requires_grad)
        self.train(layer.training)

    def _place(self, name):
        """The dimension of a whole parameter that is split, and how."""
        if name == "bias":
            return 0, _PART_OF[self.splits[0]]
        axis = self.splits[int(name.rpartition(".")[2])]
        return _AXIS[axis], _PART_OF[axis]

    def _part(self, name, whole):
        """This rank's part of a parameter, a copy; factors lie in block order."""
        part = _pieces(whole, *self._place(name), self.ranks)[self.rank]
        return part.clone() if name == "bias" else _new_weights(part, part.shape).copy_(part)

    def _runs(self):
        """The factors in the order of application, those together that are split over one axis: (part, first, behind)."""
        behind = len(self.splits)
        while behind:
            first = behind - 1
            while first and self.splits[first - 1] == self.splits[behind - 1]:
                first -= 1
            yield _PART_OF[self.splits[first]], first, behind
            behind = first

    def forward(self, x):
        x, factors, bias = _as_autocast_wants(x, self.factors._parameters.values(), self.bias)
        dim, had = 0 if self.last else x.dim() - 1, self.takes
        for part, first, behind in self._runs():
            x = _moved(x, dim, had, part, self.group)
            ends = (bias, self.last, self.activation) if first == 0 else (None, self.last)
            x = _product(x, factors[first:behind], *ends)
            had = part
        return _moved(x, dim, had, self.gives, self.group)

    def whole_state_dict(self):
        """The state_dict of the whole KSLinear, on every rank: all ranks call this together."""
        whole = {}
        for name, mine in self.state_dict().items():
            whole[name] = mine if self.ranks == 1 else _gathered(mine, *self._place(name), self.group)
        return whole

    def load_whole_state_dict(self, state):
        """Takes this rank's parts of a KSLinear's state_dict; no rank waits for another."""
        shapes = {"bias": (self.out_features,), **{f"factors.{index}": p for index, p in enumerate(self.patterns)}}
        for name in state.keys() & shapes.keys():
            if tuple(state[name].shape) != shapes[name]:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}; the whole one has {shapes[name]}")
        return self.load_state_dict({name: self._part(name, whole) if name in shapes else whole for name, whole in state.items()})

    def unshard(self):
        """The whole KSLinear on every rank: all ranks call this together."""
        state = self.whole_state_dict()
        factors = [state[f"factors.{index}"] for index in range(len(self.patterns))]
        layer = KSLinear.from_factors(factors, state.get("bias"), layout="last" if self.last else "first",
                                      activation=self.activation)
        return layer.train(self.training)

    def extra_repr(self):
        product = " ".join("({},{},{},{})/{}".format(*pattern, axis) for pattern, axis in zip(self.patterns, self.splits))
        return (f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
                f"patterns={product}, takes={self.takes}, gives={self.gives}, rank={self.rank} of {self.ranks}, "
                f"layout={'last' if self.last else 'first'}" + (f", activation={self.activation}" if self.activation else ""))
