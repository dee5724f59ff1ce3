"""The authors' weights: golden vectors of the released network, and files that are not theirs.

`golden/released_*_golden.npz` hold what the released network computes for weights drawn by the rule in
`tests.networks.released_weights`; `golden/released_*_keys.json` list its tensors. No weight file is needed.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from restoration.released import is_released, load_released, released_name
from tests.networks import released_weights
from tests.places import GOLDEN


@pytest.fixture(scope="module")
def gray_weights() -> dict[str, Tensor]:
    return released_weights("gray")


@pytest.mark.parametrize("name", ["gray", "color"])
def test_released_weights_give_the_released_outputs(name: str) -> None:
    restorer = load_released(released_weights(name))
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"released_{name}_golden.npz").items()}
    assert not restorer.training
    with torch.no_grad():
        outputs = {"y": restorer(golden["x"])}
        rows, columns = torch.arange(48).clamp(max=44), torch.arange(56).clamp(max=52)
        outputs["representation"], features = restorer.encoder(golden["x"][:, :, rows][..., columns])
    outputs |= {f"E{index}_mean": feature.mean(dim=(2, 3)) for index, feature in enumerate(features)}
    for key, output in outputs.items():
        # 1e-4 of the standard deviation is what float32 gives: other sum orders on other machines.
        tolerance = 1e-4 * golden[key].std().item()
        torch.testing.assert_close(
            output, golden[key], rtol=0, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_every_tensor_has_its_released_name(gray_weights: dict[str, Tensor]) -> None:
    ours = load_released(gray_weights).state_dict()
    assert {released_name(name) for name in ours} == gray_weights.keys() and len(ours) == len(gray_weights) == 612
    for name, value in ours.items():
        torch.testing.assert_close(value, gray_weights[released_name(name)], rtol=0, atol=0)


def test_released_files_are_told_from_ours(gray_weights: dict[str, Tensor]) -> None:
    assert is_released(gray_weights)
    assert not is_released(load_released(gray_weights).state_dict())


def test_a_missing_tensor_is_named(gray_weights: dict[str, Tensor]) -> None:
    weights = {name: value for name, value in gray_weights.items() if name != "m3.1.body.0.RA_MB.0.MB_Up.0.bias"}
    with pytest.raises(ValueError, match=r"lack the tensor 'm3\.1\.body\.0\.RA_MB\.0\.MB_Up\.0\.bias'"):
        load_released(weights)


def test_an_unknown_tensor_is_named(gray_weights: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"unknown tensor 'extra\.bias'"):
        load_released(gray_weights | {"extra.bias": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("conv2.weight", torch.zeros(64, 64, 1, 1), r"'conv2\.weight' of shape \(64, 64, 1, 1\), expected \(64, 12"),
        ("tail.weight", torch.zeros(3, 64, 3, 3), r"'tail\.weight' of shape \(3, 64, 3, 3\), expected \(1, 64, 3, 3\)"),
        ("tail.bias", [0.0], r"'tail\.bias' of shape list, expected \(1,\)"),
        ("tail.bias", torch.tensor([torch.nan]), r"numbers in 'tail\.bias' that are not finite"),
        ("conv.weight", torch.zeros(64, 2, 3, 3), r"'conv\.weight' of shape \(64, 1 or 3, 3, 3\), got \(64, 2, 3, 3\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    gray_weights: dict[str, Tensor], name: str, value: object, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_released(gray_weights | {name: value})
