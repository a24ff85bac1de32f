"""Products with the same input, as query, key and value are, found in a layer's graph and made one operation.

Which they are no name tells; the compiler's graph does.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from operator import getitem
from typing import Any

import torch
from qlora_kernels.joined import has_room_beside, is_wide
from qlora_kernels.side_by_side import apart
from torch.fx import Graph, GraphModule, Node
from torch.nn.functional import linear

# Of each operation, the arguments of which each weight has its own: weights, out_features, biases, B; scales.
_IN_LISTS: dict[Any, tuple[int, ...]] = {
    torch.ops.qlora.adapted_4bit.default: (3, 6, 7, 8),
    torch.ops.qlora.adapted_fp8.default: (3, 6, 7, 8, 11),
}
_GIVES_IN_ONE = torch.ops.qlora.adapted_4bit.default


def merge_products(compiled: GraphModule) -> None:
    """In place, of a graph as dynamo makes it; what is checkpointed lies in graphs inside it."""
    for module in compiled.modules():
        if isinstance(module, GraphModule):
            _merge_in(module.graph)
            module.graph.lint()
            module.recompile()


def _merge_in(graph: Graph) -> None:
    groups: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.target in _IN_LISTS:
            x, lora_a, _, weights, block_size, quant_type, out_features, *_ = _arguments(node)
            alike = node.target, x, block_size, quant_type, len(weights) // len(out_features)
            # Long outputs apart from short ones: what isn't written side by side would be copied there.
            features = lora_a.meta["example_value"].shape[-1]
            groups[*alike, all(is_wide(each, features) for each in out_features)].append(node)
    for (operation, *_, wide), (first, *others) in groups.items():
        together = [first, *(node for node in others if _put_before(first, node))]
        in_one = operation is _GIVES_IN_ONE and bool(wide) and _has_room(together)
        if len(together) > 1 or in_one:
            _replace(graph, together, in_one)


def _has_room(products: list[Node]) -> bool:
    """Whether their adapters can stand beside the weights; else their outputs would be copied together."""
    lora_a = [_arguments(node)[1].meta["example_value"] for node in products]
    return has_room_beside(lora_a[0].shape[1], sum(a.shape[0] for a in lora_a), lora_a[0].dtype)


def _put_before(first: Node, product: Node) -> bool:
    """Moves what a product is made of before `first`; False where it hangs on what `first` makes."""
    before = set(itertools.takewhile(lambda node: node is not first, first.graph.nodes))
    needed: set[Node] = set()
    waiting = list(product.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node is first or node.target in _IN_LISTS:
            return False
        if node not in before and node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    for node in [node for node in first.graph.nodes if node in needed]:
        first.prepend(node)
    return True


def _replace(graph: Graph, products: list[Node], in_one: bool) -> None:
    """in_one: whether all outputs are made side by side, and then taken apart"""
    operation: Any = products[0].target
    arguments = list(_arguments(products[0]))
    for place in _IN_LISTS[operation]:
        arguments[place] = [each for node in products for each in _arguments(node)[place]]
    with graph.inserting_before(products[0]):
        lora_a = graph.call_function(torch.cat, ([_arguments(node)[1] for node in products],))
        without_gradient = tuple(graph.call_method("detach", (tensor,)) for tensor in (arguments[0], lora_a))
        arguments[1:3] = lora_a, graph.call_function(linear, without_gradient)
        if in_one:
            arguments[-1] = True
        merged = graph.call_function(operation, tuple(arguments))
        if in_one:
            whole = graph.call_function(getitem, (merged, 0))
            merged = graph.call_function(apart, (whole, arguments[6]))
    at = 0
    for node in products:
        for user in list(node.users):
            assert user.target is getitem, "an operation that returns a list is only ever indexed"
            user.args = (merged, at + _arguments(user)[1])
        at += len(_arguments(node)[6])
    for node in products:
        graph.erase_node(node)  # what its low rank was made of is left to the compiler, as no one uses it


def _arguments(node: Node) -> tuple[Any, ...]:
    return node.args
