"""Error and likelihood against scikit-learn."""

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from dither.training import Images, evaluate


def test_error_and_likelihood_against_scikit_learn() -> None:
    images = Images(torch.randint(0, 256, (57, 1, 3, 3), dtype=torch.uint8), torch.randint(0, 4, (57,)), 4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Dropout())
    net.train()
    result = evaluate(net, images, batch_size=10)
    probs = net.eval()(images.pixels.float() / 255).double().softmax(1).detach().numpy()
    assert result.error_pct == pytest.approx(100 * (1 - accuracy_score(images.labels, probs.argmax(1))))
    assert result.nll == pytest.approx(log_loss(images.labels, probs, labels=[0, 1, 2, 3]), rel=1e-5)
    assert result.count == 57


def test_modes_are_put_back_one_by_one() -> None:
    images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), 2)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2))
    net[1].eval()
    evaluate(net, images)
    assert [module.training for module in net] == [True, False, True]


@pytest.mark.parametrize("net", [nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), nn.Identity()])
def test_outputs_that_do_not_fit_are_refused(net: nn.Module) -> None:
    images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match=r"outputs of shape .* expected \(3, 5\)"):
        evaluate(net, images)
