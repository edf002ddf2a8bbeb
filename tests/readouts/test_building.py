"""Readouts by name: sizes, one name for one thing, seeds, and trained ones from their state."""

from __future__ import annotations

import pytest
import torch
from deapcache_readouts import count, draw, make, shake

from deapcache.errors import UnknownNameError, UsageError
from deapcache.readouts import READOUTS, blank_readout, canonical_readout, readout_entry, restore_readout

LOCAL = (
    "deap",
    "8-dim",
    "no-sigma",
    "no-indiv-sigma",
    "only-mask",
    "bicubic",
    "transposed-conv",
    "linear",
    "linear-bn",
    "multi-scale",
)
"""Those that need no file and no network."""

SIZED = ("deap", "no-sigma", "no-indiv-sigma", "only-mask", "bicubic", "transposed-conv")
SIZES = (8, 16, 32, 64, 128)


def test_all_readouts_of_the_paper_are_there() -> None:
    assert set(READOUTS.names()) == {*LOCAL, "featup", "knn"}


@pytest.mark.parametrize("name", [*LOCAL, "featup", "knn"])
def test_what_is_known_before_a_readout_is_loaded_is_what_its_class_says(name: str) -> None:
    entry, built = READOUTS.get(name), blank_readout(name, feature_dim=8, out_channels=1, grid=(2, 2))
    for fact in ("needs_guidance", "needs_upsampler", "needs_layers", "training_free"):
        assert getattr(entry, fact) == getattr(built, fact), fact
    assert entry.sizes == (() if name == "8-dim" else built.sizes)


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("size", SIZES)
def test_the_size_is_the_width_of_the_tokens(name: str, size: int) -> None:
    readout = make(f"{name}:{size}", out_channels=3)
    assert readout.options["code_dim"] == size
    assert readout.ffn[2].out_features == size
    assert readout.options["cnn_width"] == max(size // 4, 1)
    assert readout(draw(1, 5, 5, 24), (24, 40)).shape == (1, 3, 24, 40)


@pytest.mark.parametrize("name", SIZED)
def test_sixteen_is_the_size_of_a_name_without_one(name: str) -> None:
    assert count(make(name)) == count(make(f"{name}:16"))
    assert make(name).options == make(f"{name}:16").options
    assert canonical_readout(f"{name}:16") == canonical_readout(name) == name
    assert canonical_readout(f"{name}:32") == f"{name}:32"


@pytest.mark.parametrize("name", [*LOCAL, *(f"{name}:64" for name in (*SIZED, "featup"))])
def test_good_names_pass(name: str) -> None:
    assert canonical_readout(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("deap:20", "'20', expected one of 8, 16, 32, 64, 128"),
        ("deap:", "'', expected one of 8"),
        ("deap:016", "'016', expected"),
        ("deap:16:2", "'16:2', expected"),
        ("deap:wide", "'wide', expected"),
        ("bicubic: 32", "' 32', expected"),
        ("linear:16", "linear comes in one size; leave out ':16'"),
        ("8-dim:8", "8-dim comes in one size"),
        ("deap:layers=6", "layers are joined by the probe, for all readouts: --layers 6,9,last"),
    ],
)
def test_wrong_sizes_are_refused_wherever_a_name_is_read(name: str, says: str) -> None:
    for read in (canonical_readout, readout_entry, make):
        with pytest.raises(UsageError) as refused:
            read(name)
        assert says in str(refused.value)
        assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["bicubik", "bicubik:32"])
def test_an_unknown_name_offers_the_nearest(name: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean bicubic"):
        canonical_readout(name)


def test_which_ones_look_at_the_image() -> None:
    assert {name for name in READOUTS.names() if readout_entry(name).needs_guidance} == {"featup"}
    assert readout_entry("featup:32").needs_guidance
    assert not any(make(name).needs_guidance for name in LOCAL)


def test_only_featup_is_built_around_a_file() -> None:
    assert [name for name in READOUTS.names() if readout_entry(name).needs_upsampler] == ["featup"]
    assert readout_entry("featup:64").needs_upsampler


@pytest.mark.parametrize("name", LOCAL)
def test_a_seed_decides_the_start_and_disturbs_nothing(name: str) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (list(make(name, seed=seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", [*LOCAL, "bicubic:32"])
def test_a_trained_readout_comes_back_from_its_state(name: str) -> None:
    trained, features = shake(make(name, out_channels=3)).eval(), draw(2, 5, 5, 24)
    torch.manual_seed(5)
    random_state = torch.get_rng_state()
    restored = restore_readout(
        name,
        feature_dim=24,
        out_channels=3,
        grid=(5, 5),
        options=trained.options,
        state=trained.state_dict(),
    )
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not restored.training
    assert restored.options == trained.options
    torch.testing.assert_close(restored(features, (40, 32)), trained(features, (40, 32)))


@pytest.mark.parametrize("name", LOCAL)
def test_options_tell_readouts_apart_but_not_backbones(name: str) -> None:
    options = make(name, grid=(7, 7), feature_dim=8).options
    assert options == make(name, grid=(37, 37), feature_dim=16).options
    others = [make(other).options for other in LOCAL if other != name]
    assert options not in others


@pytest.mark.parametrize("name", ["bicubic", "transposed-conv", "linear", "linear-bn"])
def test_several_at_once_give_what_each_gives_alone(name: str) -> None:
    members, features = [shake(make(name, seed=seed, out_channels=3)) for seed in range(3)], draw(2, 5, 5, 24)
    alone, weights = [], [draw(2, 3, 40, 32, seed=seed) for seed in range(3)]
    for member, weight in zip(members, weights, strict=True):
        output = member(features, (40, 32))
        gradients = torch.autograd.grad((output * weight).sum(), list(member.parameters()))
        alone.append((output, gradients))
    together = type(members[0]).forward_stacked(members, features, (40, 32))
    torch.stack([(output * weight).sum() for output, weight in zip(together, weights, strict=True)]).sum().backward()
    for member, output, (expected, gradients) in zip(members, together, alone, strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        for parameter, gradient in zip(member.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["deap", "bicubic", "transposed-conv", "linear"])
def test_outputs_in_turn_and_their_gradients_are_those_of_all_at_once(name: str) -> None:
    """Six members, of which four at a time have their backward pass before the others are begun."""
    members, features = [shake(make(name, seed=seed)) for seed in range(6)], draw(2, 5, 5, 24)
    weights = [draw(2, 1, 40, 32, seed=seed) for seed in range(6)]
    parameters = [parameter for member in members for parameter in member.parameters()]
    expected = type(members[0]).forward_stacked(members, features, (40, 32))
    loss = torch.stack([(output * weight).sum() for output, weight in zip(expected, weights, strict=True)]).sum()
    gradients = torch.autograd.grad(loss, parameters)
    outputs: list[torch.Tensor] = []
    for some in type(members[0]).forward_in_turn(members, features, (40, 32)):
        pairs = zip(some, weights[len(outputs) :], strict=False)
        torch.stack([(output * weight).sum() for output, weight in pairs]).sum().backward()
        outputs += some
    for output, one in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, one, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["bicubic", "transposed-conv", "linear", "linear-bn"])
def test_readouts_of_one_shape_say_so(name: str) -> None:
    assert make(name, seed=0).stack_key() == make(name, seed=1).stack_key()
    assert make(name).stack_key() != make(name, out_channels=2).stack_key()
    assert make(name).stack_key() != make(name, covered=(0.9, 1.0)).stack_key()
    assert name not in SIZED or make(name).stack_key() != make(f"{name}:32").stack_key()
