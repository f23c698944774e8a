"""What goes wrong in one process is named by all of them, before it is averaged into the weights."""

from typing import Any


def test_a_bad_image_is_named_with_its_process(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    for found in ranks:
        message = found["bad_pixel"]
        place = f"the loss is not finite at step 7 of stretch 'base' (epoch 2, process 1 of 0 to {world - 1}): "
        assert message.startswith(place + "image 2 of its batch has pixels that are NaN or infinite")
        assert "the last good checkpoint is step-00000006" in message
        assert message.endswith("weights finite: True")


def test_a_bad_gradient_is_named_with_its_process(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    for found in ranks:
        message = found["bad_gradient"]
        place = f"gradient of the loss is not finite at step 3 of stretch 'base' (epoch 1, process {world - 1} of 0 to "
        assert place in message
        assert "gradient is '1.bias'" in message
        assert message.endswith("weights finite: True")


def test_a_damaged_state_is_set_aside_once(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["damaged_state"] == [
            "no error",
            "no error",
            "damaged-step-00000012",
            "step-00000010",
            "step-00000012",
        ]
