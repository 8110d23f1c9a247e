"""Prices from the sizes of a model, where nothing can be measured."""

from dataclasses import dataclass, replace

from headrace.chain.chain import Chain, Layer
from headrace.cluster.cluster import Device, Link
from headrace.costs.costs import Costs, LayerCosts, LinkCosts

_FLOAT32_BYTES = 4
_TOKEN_ID_BYTES = 8
_LOGITS_ALIVE = 3


def analytic_costs(chain: Chain, device: Device, link: Link, microbatch_rows: int, sequence_length: int) -> Costs:
    """Prices of every layer by FLOPs and bytes.

    An op takes ``FLOPs / flops_per_s + bytes / memory_bytes_per_s``.

    FLOPs (Narayanan et al., arXiv 2104.04473, appendix): a forward costs two for each weight that a token meets, and
    ``4 x attention_width x sequence_length`` a token for the attention scores and their use, with no discount for the
    causal half. The gradient of the weights costs the weights' part again; that of the input costs it too, and twice
    the attention's, which has two inputs.

    Bytes: each saved tensor is written and read once by the forward and again by the backward, weights are read once
    by each, and the gradient of the weights is read and written.

    Saved activations (Korthikanti et al., arXiv 2205.05198, section 4): a token keeps 4 hidden states around norms
    and residuals, and as many numbers as the matrices' other sides are wide, ``weights / hidden_size``. That is their
    equation 1 for a GPT layer, ``34 sbh`` bytes in 16 bits, less ``2 sbh`` for dropout masks and less the
    ``5 a s^2 b`` of attention scores, which fused attention does not keep. The head keeps its
    norm's and its own input; it runs inside I, which has three tensors of logits in float32 alive: the logarithms of
    the probabilities, their gradient, and that of the logits.

    Selective recomputation (section 5 there, taken further) keeps a layer's input and the outputs of its matrices:
    ``20 sbh`` of a GPT layer's ``32 sbh``. It makes the attention scores and their use again, and writes and reads
    once more what it had not kept.

    Args:
        chain: The model.
        device: Where its layers run.
        link: Between neighbouring stages.
        microbatch_rows: Rows of a micro-batch.
        sequence_length: Tokens of a row.
    """
    tokens = microbatch_rows * sequence_length
    output_bytes = tokens * chain.hidden_size * chain.dtype_bytes
    embedding, *inner, head = chain.layers
    works = [
        _embedding(embedding, chain, tokens),
        *(_transformer_layer(layer, chain, tokens, sequence_length) for layer in inner),
        _head(head, chain, tokens),
    ]
    return Costs(
        layers=tuple(work.priced(device, output_bytes) for work in works),
        link=LinkCosts(link.latency_s, link.bytes_per_s),
        stage_f_s=0.0,
        stage_i_s=0.0,
        optimizer_s_per_byte=_adamw_bytes_per_byte(chain.dtype_bytes) / device.memory_bytes_per_s,
        source="analytic",
    )


@dataclass(frozen=True)
class _Work:
    """What a layer does and keeps for one micro-batch; ``…_moved_bytes`` go to or from memory."""

    f_flops: float
    i_flops: float
    w_flops: float
    f_moved_bytes: int
    i_moved_bytes: int
    w_moved_bytes: int
    parameter_bytes: int
    saved_bytes: int
    weight_saved_bytes: int
    working_bytes: int = 0
    selective_flops: float = 0.0
    selective_freed_bytes: int = 0

    def priced(self, device: Device, output_bytes: int) -> LayerCosts:
        def seconds(flops: float, num_bytes: int) -> float:
            return flops / device.flops_per_s + num_bytes / device.memory_bytes_per_s

        return LayerCosts(
            f_s=seconds(self.f_flops, self.f_moved_bytes),
            i_s=seconds(self.i_flops, self.i_moved_bytes),
            w_s=seconds(self.w_flops, self.w_moved_bytes),
            parameter_bytes=self.parameter_bytes,
            saved_bytes=self.saved_bytes,
            weight_saved_bytes=self.weight_saved_bytes,
            output_bytes=output_bytes,
            working_bytes=self.working_bytes,
            selective_s=seconds(self.selective_flops, 2 * self.selective_freed_bytes),
            selective_freed_bytes=self.selective_freed_bytes,
        )


def _embedding(layer: Layer, chain: Chain, tokens: int) -> _Work:
    """Reads a row of the table for each token; its gradient is as large as the table, and is finished inside I."""
    table_bytes = layer.num_parameters * chain.dtype_bytes
    rows_bytes = tokens * chain.hidden_size * chain.dtype_bytes
    return _Work(0, 0, 0, 2 * rows_bytes, rows_bytes + 2 * table_bytes, 0, table_bytes, tokens * _TOKEN_ID_BYTES, 0)


def _transformer_layer(layer: Layer, chain: Chain, tokens: int, sequence_length: int) -> _Work:
    weights_flops = tokens * layer.forward_flops_per_token
    attention_flops = tokens * 4.0 * layer.attention_width * sequence_length
    widths = layer.forward_flops_per_token / (2 * chain.hidden_size)
    # W keeps the inputs of the matrices and the gradients of their outputs: of a GPT layer 7 and 9 hidden states,
    # together as many as the 16 that the forward keeps.
    saved_bytes = round(tokens * (4 * chain.hidden_size + widths) * chain.dtype_bytes)
    work = _with_weights(layer, chain, weights_flops, attention_flops, saved_bytes, saved_bytes)
    if not layer.linear_output_width:
        return work
    kept_bytes = tokens * (chain.hidden_size + layer.linear_output_width) * chain.dtype_bytes
    freed_bytes = max(saved_bytes - kept_bytes, 0)
    return replace(work, selective_flops=attention_flops, selective_freed_bytes=freed_bytes)


def _head(layer: Layer, chain: Chain, tokens: int) -> _Work:
    """All of it runs inside I, so that no logits wait for their backward."""
    saved_bytes = tokens * 2 * chain.hidden_size * chain.dtype_bytes
    weight_saved_bytes = tokens * (chain.hidden_size + chain.vocab_size) * chain.dtype_bytes
    logits_bytes = tokens * chain.vocab_size * _FLOAT32_BYTES
    flops = tokens * layer.forward_flops_per_token
    work = _with_weights(layer, chain, flops, 0.0, saved_bytes + logits_bytes, weight_saved_bytes)
    return replace(
        work,
        f_flops=0.0,
        i_flops=2 * flops,
        f_moved_bytes=0,
        i_moved_bytes=work.f_moved_bytes + work.i_moved_bytes,
        saved_bytes=saved_bytes,
        working_bytes=_LOGITS_ALIVE * logits_bytes,
    )


def _with_weights(
    layer: Layer, chain: Chain, weights_flops: float, attention_flops: float, saved_bytes: int, weight_saved_bytes: int
) -> _Work:
    parameter_bytes = layer.num_parameters * chain.dtype_bytes
    moved_bytes = 2 * saved_bytes + parameter_bytes
    return _Work(
        f_flops=weights_flops + attention_flops,
        i_flops=weights_flops + 2 * attention_flops,
        w_flops=weights_flops,
        f_moved_bytes=moved_bytes,
        i_moved_bytes=moved_bytes,
        w_moved_bytes=2 * parameter_bytes,
        parameter_bytes=parameter_bytes,
        saved_bytes=saved_bytes,
        weight_saved_bytes=weight_saved_bytes,
    )


def _adamw_bytes_per_byte(dtype_bytes: int) -> float:
    """Bytes that AdamW moves: reads and writes parameters and two float32 moments, reads gradients."""
    return (3 * dtype_bytes + 4 * _FLOAT32_BYTES) / dtype_bytes
