"""The order of training is arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.order import Order

SEEDS = st.integers(-(2**63), 2**63)


def order_of(count: int = 10, **settings) -> Order:
    values = {"epochs": 3, "global_batch_size": 4, "seed": 7, "clips_per_epoch": count} | settings
    return Order(rows=tuple(range(100, 100 + count)), **values)


def run(order: Order, num_workers: int = 1, first_step: int = 0) -> list[list[tuple[int, int]]]:
    """List the steps of a run, each the parts of all workers one after the other."""
    return [
        [
            place
            for rank in range(num_workers)
            for place in order.batch(step, rank=rank, num_workers=num_workers)
        ]
        for step in range(first_step, order.num_steps)
    ]


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 17), SEEDS)
def test_every_epoch_shows_every_row_once(count, epochs, global_batch_size, seed):
    order = order_of(count, epochs=epochs, global_batch_size=global_batch_size, seed=seed)
    seen = [place for step in run(order) for place in step]
    for epoch in range(epochs):
        assert sorted(row for at, row in seen if at == epoch) == list(order.rows)
    assert [epoch for epoch, _ in seen] == sorted(epoch for epoch, _ in seen)
    assert (
        len(seen) - epochs * count < global_batch_size
    )  # what the last step takes of the next epoch


@given(st.integers(1, 40), st.integers(1, 4), SEEDS)
def test_the_order_is_the_same_for_any_number_of_workers(count, fours, seed):
    order = order_of(count, global_batch_size=4 * fours, seed=seed)
    assert run(order, 1) == run(order, 2) == run(order, 4)


@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_a_resumed_run_is_the_tail(count, global_batch_size, data):
    order = order_of(count, global_batch_size=global_batch_size)
    first_step = data.draw(st.integers(0, order.num_steps))
    assert run(order, first_step=first_step) == run(order)[first_step:]


def test_workers_must_share_a_step_evenly():
    with pytest.raises(AssertionError, match="3 workers cannot share 4 clips"):
        order_of(global_batch_size=4).batch(0, rank=0, num_workers=3)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 9))
def test_epochs_end_where_their_last_row_is_seen(count, global_batch_size, epoch):
    order = order_of(count, epochs=9, global_batch_size=global_batch_size)
    steps = order.steps_until(epoch)
    assert steps * global_batch_size >= epoch * count > (steps - 1) * global_batch_size
    assert order.num_steps == order.steps_until(9)


def rows_of_epoch(seed: int, epoch: int, count: int) -> list[int]:
    """Take a whole epoch in one step; rows count from 0."""
    order = Order(tuple(range(count)), epoch + 1, count, global_batch_size=count, seed=seed)
    return [row for _, row in order.batch(epoch, rank=0, num_workers=1)]


def test_epochs_and_seeds_differ():
    orders = [tuple(rows_of_epoch(seed, epoch, 50)) for seed in (0, 1, -1) for epoch in (0, 1)]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize(
    ("seed", "epoch", "expected"),
    [
        (0, 0, [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7]),
        (2**64 - 1, 5, [0, 9, 2, 10, 1, 5, 7, 6, 4, 11, 8, 3]),
        (-1, 5, [0, 9, 2, 10, 1, 5, 7, 6, 4, 11, 8, 3]),
    ],
)
def test_the_permutation_is_pinned(seed, epoch, expected):
    """A numpy or a machine that gives another order would break every resumed run, unseen."""
    assert rows_of_epoch(seed, epoch, 12) == expected


@given(st.integers(2, 60), st.integers(1, 9), SEEDS)
def test_partners_stand_side_by_side(count, fours, seed):
    def partner(epoch: int, row: int) -> int | None:
        other = 100 + (row - 100 ^ 1 + epoch % 2)  # some of them are not in the order
        return other if epoch % 2 == 0 else None

    order = order_of(count, epochs=2, global_batch_size=4 * fours, seed=seed, partner=partner)
    rows = [row for step in run(order) for _, row in step][: 2 * count]
    assert sorted(rows[:count]) == sorted(rows[count:]) == list(order.rows)
    places = {row: place for place, row in enumerate(rows[:count])}
    for row, place in places.items():
        if (other := partner(0, row)) in places:
            assert abs(places[other] - place) == 1
    assert run(order, 1) == run(order, 2) == run(order, 4)
