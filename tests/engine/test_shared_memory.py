"""Messages through shared memory: what is received stays as it was for as long as anybody holds it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headrace.engine.shared_memory import SharedInbox, SharedOutbox

SOON = timedelta(seconds=5)


@contextmanager
def channel(dtype: torch.dtype = torch.float32) -> Iterator[tuple[SharedOutbox, SharedInbox]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    outbox, inbox = SharedOutbox(ours), SharedInbox(theirs, dtype)
    yield outbox, inbox
    outbox.close()
    inbox.close()


def passed(outbox: SharedOutbox, inbox: SharedInbox, microbatch: int, tensor: Tensor) -> Tensor:
    inbox.expect([(microbatch, tuple(tensor.shape))])
    outbox.put(microbatch, tensor)
    return inbox.take(microbatch, SOON)


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_what_a_hook_keeps_is_never_written_again(messages: list[tuple[int, bool, int]]) -> None:
    with channel() as (outbox, inbox):
        kept: list[tuple[Tensor, Tensor]] = []
        for index, (size, keeps, lets_go) in enumerate(messages):
            sent = torch.full((size, 3), float(index))
            got = passed(outbox, inbox, index, sent)
            if keeps:
                kept.append((got[1:], sent[1:]))  # A view holds the storage as well as the tensor does.
            del got
            del kept[:lets_go]
            assert all(torch.equal(a, b) for a, b in kept)


def test_memory_is_used_again_once_the_tensor_is_gone() -> None:
    with channel() as (outbox, inbox):
        addresses = {passed(outbox, inbox, index, torch.zeros(1000)).data_ptr() for index in range(10)}
        assert len(addresses) == 1
        kept = [passed(outbox, inbox, index, torch.zeros(1000)) for index in range(3)]
        assert len({tensor.data_ptr() for tensor in kept}) == 3


def test_messages_that_grow_let_the_memory_of_smaller_ones_go() -> None:
    with channel() as (outbox, inbox):
        for size in range(1, 50):
            sent = torch.full((size,), float(size))
            assert torch.equal(passed(outbox, inbox, size, sent), sent)
        assert [slot.num_bytes for slot in outbox._slots] == [4 * 49]


def test_the_gradient_that_autograd_accumulates_does_not_alias_the_message() -> None:
    with channel() as (outbox, inbox):
        hidden = passed(outbox, inbox, 0, torch.ones(4)).requires_grad_()
        output = hidden * 1.0
        gradient = passed(outbox, inbox, 1, torch.full((4,), 7.0))
        output.backward(gradient)
        del gradient
        passed(outbox, inbox, 2, torch.full((4,), 9.0))
        assert hidden.grad is not None
        assert hidden.grad.tolist() == [7.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bit_arrives(dtype: torch.dtype) -> None:
    with channel(dtype) as (outbox, inbox):
        sent = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert torch.equal(passed(outbox, inbox, 0, sent.transpose(0, 1)), sent.transpose(0, 1))


def test_a_sender_that_is_gone_is_told_at_once() -> None:
    with channel() as (outbox, inbox):
        outbox.close()
        inbox.expect([(0, (1,))])
        with pytest.raises(ConnectionResetError, match="closed"):
            inbox.take(0, SOON)


def test_letting_go_of_a_message_after_the_sender_is_gone_says_nothing() -> None:
    with channel() as (outbox, inbox):
        got = passed(outbox, inbox, 0, torch.zeros(3))
        outbox.close()
        del got
        inbox.close()


def test_a_sender_that_sends_nothing_is_waited_for_no_longer_than_stated() -> None:
    with channel() as (_, inbox):
        inbox.expect([(0, (1,))])
        with pytest.raises(TimeoutError, match=r"nothing came in 0\.01 s"):
            inbox.take(0, timedelta(milliseconds=10))
