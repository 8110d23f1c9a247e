"""Chains and prices built by hand for these tests."""

from headrace.chain.chain import Chain, Layer
from headrace.costs.costs import Costs, LayerCosts, LinkCosts


def make_chain(num_layers: int, hidden: int = 32, vocab: int = 97, tied: bool = False) -> Chain:
    """A decoder of `12 h^2` parameters a layer."""
    block = 12 * hidden**2
    layers = [Layer("embedding", "embedding", vocab * hidden, ("embed.weight",), 0.0, 0)]
    layers += [
        Layer(f"layers.{i}", "decoder", block, (f"layers.{i}.weight",), 2.0 * block, hidden) for i in range(num_layers)
    ]
    names = () if tied else ("head.weight",)
    layers.append(Layer("head", "head", 0 if tied else vocab * hidden, names, 2.0 * vocab * hidden, 0))
    pairs = (("head.weight", "embed.weight"),) if tied else ()
    return Chain("llama", tuple(layers), hidden, vocab, pairs, 4)


def make_costs(
    chain: Chain,
    layer_s: float = 0.001,
    embedding_s: float = 0.0,
    head_s: float = 0.0,
    rows: int = 1,
    link: LinkCosts | None = None,
    stage_s: float = 0.0,
    optimizer_s_per_byte: float = 0.0,
) -> Costs:
    """Prices that grow with the rows; a layer's backward costs 2 forwards and it saves 1000 bytes a row."""
    forward_s = {"embedding": embedding_s, "head": head_s}

    def price(kind: str, num_parameters: int) -> LayerCosts:
        f_s = rows * forward_s.get(kind, layer_s)
        saved_bytes = 0 if kind in forward_s else 1000 * rows
        return LayerCosts(f_s, f_s, f_s, num_parameters * chain.dtype_bytes, saved_bytes, 0, 10 * rows)

    layers = tuple(price(layer.kind, layer.num_parameters) for layer in chain.layers)
    return Costs(layers, link or LinkCosts(0.0, 1e12), stage_s, stage_s, optimizer_s_per_byte, "measured")
