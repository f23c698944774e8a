"""Order and augmentation of batches."""

import pytest
import torch

from dither.training import Batches, Fit, Images, shift_images


@pytest.fixture
def images() -> Images:
    pixels = torch.randint(0, 256, (103, 2, 5, 6), dtype=torch.uint8)
    return Images(pixels, torch.arange(103), 103)


def test_an_epoch_sees_every_image_at_most_once_and_leaves_out_a_last_small_batch(images: Images) -> None:
    labels = torch.cat([y for _, y in Batches(images, Fit(1, batch_size=10), seed=0).epoch(0)])
    assert len(labels) == 100
    assert len(labels.unique()) == 100


def test_batches_are_the_images_of_their_labels_in_the_unit_interval(images: Images) -> None:
    for x, y in Batches(images, Fit(1, batch_size=10), seed=0).epoch(0):
        torch.testing.assert_close(x, images.pixels[y].float() / 255)


def test_epochs_and_seeds_have_orders_of_their_own(images: Images) -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(torch.cat([y for _, y in Batches(images, Fit(1, batch_size=10), seed=seed).epoch(epoch)]).tolist())

    # 100 of 103 images in equal orders by chance: 1e-160
    assert len({order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(0, 1) == order(0, 1)


def test_an_epoch_that_starts_late_goes_on_with_the_same_augmented_batches(images: Images) -> None:
    batches = Batches(images, Fit(1, batch_size=10, shift=2, flip=True), seed=3)
    whole, late = list(batches.epoch(4)), list(batches.epoch(4, start=6))
    assert len(late) == 4
    for (x, y), (same_x, same_y) in zip(whole[6:], late, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)


def test_processes_share_every_batch_without_overlap(images: Images) -> None:
    fit = Fit(1, batch_size=12, shift=1, flip=True)
    parts = [list(Batches(images, fit, seed=0, rank=rank, world=3).epoch(0)) for rank in range(3)]
    for step, (x, y) in enumerate(Batches(images, fit, seed=0).epoch(0)):
        for rank in range(3):
            assert torch.equal(parts[rank][step][0], x[rank::3])
            assert torch.equal(parts[rank][step][1], y[rank::3])


def test_steps_are_a_multiple_of_what_is_accumulated(images: Images) -> None:
    assert Batches(images, Fit(1, batch_size=10), seed=0, multiple=4).steps == 8


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [(200, {}, "one epoch needs 200"), (30, {"multiple": 4}, "one epoch needs 120"), (10, {"world": 3}, "3 processes")],
)
def test_impossible_batches_are_refused(images: Images, batch_size: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(images, Fit(1, batch_size=batch_size), seed=0, **options)


def test_shift_against_a_loop() -> None:
    x, moves = torch.rand(7, 2, 5, 6), torch.randint(0, 5, (7, 2))
    expected = torch.zeros_like(x)
    for b in range(7):
        down, right = 2 - int(moves[b, 0]), 2 - int(moves[b, 1])
        for row in range(5):
            for column in range(6):
                if 0 <= row - down < 5 and 0 <= column - right < 6:
                    expected[b, :, row, column] = x[b, :, row - down, column - right]
    assert torch.equal(shift_images(x, moves, 2), expected)


def test_flip_mirrors_about_half_of_the_images(images: Images) -> None:
    flips = 0
    for x, y in Batches(images, Fit(1, batch_size=10, flip=True), seed=0).epoch(0):
        plain = images.float_batch(y)
        for one, original in zip(x, plain, strict=True):
            assert torch.equal(one, original) or torch.equal(one, original.flip(-1))
            flips += not torch.equal(one, original)
    assert 20 <= flips <= 80  # binomial(100, 1/2): outside with probability 1e-9
