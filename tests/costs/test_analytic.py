"""Analytic prices against the formulas and the table of the papers."""

from math import inf

import pytest

from headrace.chain import Chain, Layer
from headrace.cluster import Device, Link
from headrace.costs import analytic_costs, loss_in_chunks, recomputed

VOCAB, SEQUENCE = 51200, 2048
LINK = Link(1e-5, 25e9)

# Narayanan et al., SC'21 (arXiv 2104.04473v5), table 1: billions of parameters, hidden size, layers, batch.
TABLE_1 = [
    (1.7, 2304, 24, 512),
    (3.6, 3072, 30, 512),
    (7.5, 4096, 36, 512),
    (18.4, 6144, 40, 1024),
    (39.1, 8192, 48, 1536),
    (76.1, 10240, 60, 1792),
    (145.6, 12288, 80, 2304),
    (310.1, 16384, 96, 2160),
    (529.6, 20480, 105, 2520),
    (1008.0, 25600, 128, 3072),
]


def gpt(hidden, num_layers, dtype_bytes=2):
    """As the paper has it: matrices of 12 h^2, biases and norms of 13 h, position table, tied head, final norm."""
    layers = [Layer("embedding", "embedding", (VOCAB + SEQUENCE) * hidden, ("wte", "wpe"), 0.0, 0)]
    layers += [
        Layer(f"layers.{i}", "gpt", 12 * hidden**2 + 13 * hidden, (), 24.0 * hidden**2, hidden, 0, 9 * hidden)
        for i in range(num_layers)
    ]
    layers.append(Layer("head", "head", 2 * hidden, (), 2.0 * hidden * VOCAB, 0))
    return Chain("gpt2", tuple(layers), hidden, VOCAB, (("lm_head", "wte"),), dtype_bytes)


def seconds_of(costs):
    """Of F, I and W of all layers. On the counter these are FLOPs."""
    return sum(layer.f_s + layer.i_s + layer.w_s for layer in costs.layers)


def counter(memory_bytes_per_s=inf):
    """1 FLOP/s, and endless memory bandwidth."""
    return Device("counter", "cpu", 10**12, 1.0, memory_bytes_per_s)


@pytest.mark.parametrize(("billions", "h", "num_layers", "batch"), TABLE_1)
def test_the_sizes_of_table_1_have_its_parameters_and_the_flops_of_equation_3(billions, h, num_layers, batch):
    chain = gpt(h, num_layers)
    assert round(chain.num_parameters / 1e9, 1) == billions
    costs = recomputed(analytic_costs(chain, counter(), LINK, batch, SEQUENCE), ("full",) * num_layers)
    equation_3 = 96 * batch * SEQUENCE * num_layers * h**2 * (1 + SEQUENCE / (6 * h) + VOCAB / (16 * num_layers * h))
    assert seconds_of(costs) == pytest.approx(equation_3, rel=1e-12)


@pytest.mark.parametrize(
    ("h", "num_layers", "gpus", "batch", "tflops", "tokens", "days"),
    [(12288, 96, 1024, 1536, 140, 300e9, 34), (25600, 128, 3072, 3072, 163, 450e9, 84)],
)
def test_gpt_3_and_the_1_trillion_model_train_for_the_days_that_section_5_1_says(
    h, num_layers, gpus, batch, tflops, tokens, days
):
    device = Device("A100 as reached", "cuda", 80 * 10**9, tflops * 1e12, inf)
    one_row = recomputed(analytic_costs(gpt(h, num_layers), device, LINK, 1, SEQUENCE), ("full",) * num_layers)
    step_s = batch * seconds_of(one_row) / gpus
    assert round(step_s * tokens / (batch * SEQUENCE) / 86400) == pytest.approx(days, abs=1)


def test_a_backward_costs_two_forwards_and_attention_has_no_weights():
    layer = analytic_costs(gpt(4096, 2), counter(), LINK, 1, SEQUENCE).layers[1]
    assert layer.i_s + layer.w_s == pytest.approx(2 * layer.f_s)
    assert layer.w_s == pytest.approx(24.0 * SEQUENCE * 4096**2)


@pytest.mark.parametrize(("rows", "h"), [(1, 12288), (4, 20480), (1, 25600)])
def test_a_gpt_layer_saves_what_equation_1_says_without_masks_and_scores(rows, h):
    # Korthikanti et al. (arXiv 2205.05198), equation 1: sbh(34 + 5 a s / h); masks are 2 sbh of the 34.
    layer = analytic_costs(gpt(h, 2), counter(), LINK, rows, SEQUENCE).layers[1]
    assert layer.saved_bytes == SEQUENCE * rows * h * (34 - 2)
    assert layer.output_bytes == 2 * SEQUENCE * rows * h


def test_the_head_holds_what_section_4_3_says_but_its_logits_only_while_its_backward_runs():
    # sbh * 4 (1 + v / h): norm's input, projection's input, logits in 32 bits; two gradients of these come on top.
    h = 12288
    head = analytic_costs(gpt(h, 2), counter(), LINK, 1, SEQUENCE).layers[-1]
    assert head.saved_bytes == 4 * SEQUENCE * h
    assert head.working_bytes == 3 * 4 * SEQUENCE * VOCAB


def test_a_loss_in_chunks_has_one_chunk_of_logits_alive_and_leaves_no_gradient_of_them_to_w():
    whole = analytic_costs(gpt(1024, 2), counter(1e3), LINK, 1, SEQUENCE)
    chunked = loss_in_chunks(whole, 3)
    head, before = chunked.layers[-1], whole.layers[-1]
    assert head.working_bytes == before.working_bytes // 3
    assert (head.saved_bytes, head.weight_saved_bytes, head.w_s) == (before.saved_bytes, 0, 0.0)
    assert seconds_of(chunked) == pytest.approx(seconds_of(whole))
    assert chunked.layers[:-1] == whole.layers[:-1]
    assert loss_in_chunks(whole, 1) == whole


def test_full_recomputation_keeps_2_sbh_a_layer_and_costs_one_more_forward():
    h = 12288
    kept = analytic_costs(gpt(h, 3), counter(), LINK, 1, SEQUENCE)
    again = recomputed(kept, ("full",) * 3)
    for before, after in zip(kept.layers[1:-1], again.layers[1:-1], strict=True):
        assert after.saved_bytes == 2 * SEQUENCE * h
        assert after.i_s == before.i_s + before.f_s
        assert (after.f_s, after.w_s) == (before.f_s, before.w_s)
    assert (again.layers[0], again.layers[-1]) == (kept.layers[0], kept.layers[-1])


def test_selective_recomputation_keeps_20_sbh_a_layer_and_makes_the_scores_and_their_use_again():
    # The input, and of the matrices' outputs 3 h of query, key and value, h, 4 h and h: 10 h in 16 bits.
    h = 12288
    kept = analytic_costs(gpt(h, 3), counter(), LINK, 1, SEQUENCE)
    again = recomputed(kept, ("none", "selective", "full"))
    assert [layer.saved_bytes for layer in again.layers[1:-1]] == [n * SEQUENCE * h for n in (32, 20, 2)]
    assert [layer.working_bytes for layer in again.layers[1:-1]] == [n * SEQUENCE * h for n in (0, 12, 30)]
    assert again.layers[2].i_s - kept.layers[2].i_s == pytest.approx(4.0 * SEQUENCE**2 * h)
    assert (again.layers[2].f_s, again.layers[2].w_s) == (kept.layers[2].f_s, kept.layers[2].w_s)


def test_memory_traffic_adds_seconds_in_proportion_to_bandwidth():
    def step_s(bandwidth):
        return seconds_of(analytic_costs(gpt(1024, 2), counter(bandwidth), LINK, 1, 128))

    free_s = step_s(inf)
    assert step_s(1e3) - free_s == pytest.approx(2 * (step_s(2e3) - free_s))


def test_prices_are_marked_analytic_and_carry_the_link():
    costs = analytic_costs(gpt(64, 2, dtype_bytes=4), counter(memory_bytes_per_s=28.0), LINK, 1, 16)
    assert costs.source == "analytic"
    assert costs.link.message_s(25e9) == pytest.approx(1.00001)
    # AdamW in float32: 3 reads and writes of weights and gradients, 4 of moments, 28 bytes for 4 bytes of weights.
    assert costs.optimizer_s_per_byte == pytest.approx(7 / 28)
