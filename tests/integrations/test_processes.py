"""Lightning's DDP on two real processes against one that sees every batch whole; channels go on the way."""

from pathlib import Path

import pytest
import torch

from tests.distributed.processes import run
from tests.integrations import check_lightning


# Lightning's advice, and its use of torch
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    one = check_lightning.train(0, 1)
    two = run({"train": check_lightning.train}, 2, tmp_path)
    assert "(10, 10)" in one["widths"]
    assert one["rates"] == pytest.approx([1e-2 / 8, 1e-1 / 8])
    for found in two:
        assert not isinstance(found["train"], str), found["train"]
        assert found["train"]["widths"] == one["widths"]
        assert found["train"]["rates"] == pytest.approx(one["rates"])
        # gradients are means over rows in another order
        torch.testing.assert_close(found["train"]["state"], one["state"], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(two[0]["train"]["state"], two[1]["train"]["state"], rtol=0, atol=0)
