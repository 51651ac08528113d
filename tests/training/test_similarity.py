import keras
import pytest

from cnnkit.data import DIGITS
from cnnkit.errors import UsageError
from cnnkit.training.network import build
from cnnkit.training.recipe import resolve
from cnnkit.training.similarity import Similarity
from cnnkit.training.similarity import measure
from cnnkit.training.train import check
from cnnkit.training.train import chosen
from tests.training.pictures import Pictures
from tests.training.test_layer_rates import Notes
from tests.training.test_resume import net


@pytest.mark.parametrize(
    ("deep", "shallow", "per_class", "plan"),
    [
        (0.8, 0.5, 99, "head"),
        (0.8, 0.5, 100, "deep"),
        (0.5, 0.4, 100, "all"),
        (0.5, 0.4, 99, "head_then_all"),
        (0.8, 0.9, 99, "head_then_all"),  # its first layer knows more than its last
        (None, 0.0, 1, "head_then_all"),
    ],
)
def test_the_four_cases_of_the_book(deep, shallow, per_class, plan):
    assert Similarity(deep, shallow, chance=0.1, per_class=per_class).plan == plan


def test_half_of_the_mistakes_must_be_spared():
    for shallow, chance in ((0.5, 0.1), (0.1, 0.5)):
        assert Similarity(0.75, shallow, chance, per_class=9).alike
        assert not Similarity(0.74, shallow, chance, per_class=9).alike
    assert Similarity(1.0, 1.0, 0.1, per_class=9).alike


def test_the_reason_in_words():
    assert str(Similarity(0.8, 0.5, 0.1, 20)) == (
        "20 pictures a class are few, and the tasks are alike: read off its last features, 80% "
        "are right, off its first 50%, and by chance 10%"
    )
    assert "too few to measure" in str(Similarity(None, 0.0, 0.0, 1))


def conv_net(kernel):
    """Returns a network whose second convolution sees what the first one gives, or nothing."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(1, 1, name="one", kernel_initializer="ones")(image)
    x = keras.layers.Conv2D(3, (8, 1), name="two", kernel_initializer=kernel)(x)
    return keras.Model(image, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(x)))


def test_features_that_tell_bars_apart_and_features_that_are_blind():
    found = measure(conv_net("ones"), Pictures())
    assert (found.per_class, found.few, found.alike, found.plan) == (20, True, True, "head")
    assert found.deep == 1
    assert found.chance == pytest.approx(1 / 3)
    blind = measure(conv_net("zeros"), Pictures())
    assert blind.deep < 0.5
    assert blind.shallow == found.shallow > 0.9
    assert blind.plan == "head_then_all"


def test_one_picture_a_class_is_too_few():
    assert measure(net(), Pictures(train=3)).deep is None
    few = measure(net(), Pictures(train=5))  # two classes of two pictures, and one of one
    assert 0 <= few.deep <= 1


def test_auto_is_chosen_with_a_reason(tmp_path):
    sets = [f"data.path={DIGITS}", "model.width=0.25"]
    manifest = check(resolve(sets=sets).recipe)
    dataset, resolved = chosen(manifest, resolve(sets=sets))
    build(resolved.recipe, dataset, Notes()).save(tmp_path / "m.keras")
    sets.append("train.unfreeze=auto")
    with pytest.raises(UsageError, match=r"unfrozen by what it knows.*Expected model\.pretrained"):
        chosen(manifest, resolve(sets=sets))
    notes = Notes()
    _, resolved = chosen(
        manifest, resolve(sets=[*sets, f"model.pretrained={tmp_path}/m.keras"]), notes
    )
    plan = resolved.recipe.train.unfreeze
    assert plan in ("deep", "all")
    assert resolved.origin["train.unfreeze"] == "chosen from the data"
    assert notes.notes[0].startswith(f"train.unfreeze={plan}: ")
