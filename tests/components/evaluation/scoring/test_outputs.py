"""Values, tokens, the user's function and several outputs, against figures by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.errors import ExamplesError, ParameterError, UnsupportedError
from paring.evaluation.scoring import Tally, Threshold, make_plan
from paring.evaluation.scoring.function import load_function
from paring.evaluation.scoring.means import PairedMeans, TokenSums

RANDOM = np.random.default_rng(0)


def batched(
    source: Any,
    candidate: Any,
    labels: Any = None,
    *,
    metric: str = "auto",
    size: int = 7,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """The summary of one output, counted in batches that are merged."""
    thresholds = {"output": Threshold(threshold, "the test")}
    total = Tally(
        make_plan(metric, top_k=5, gated="", outputs={"output": labels}, thresholds=thresholds)
    )
    for start in range(0, len(source), size):
        rows = slice(start, start + size)
        part = Tally(total.plan)
        wanted = {} if labels is None else {"output": labels[rows]}
        name = total.plan.function
        function = load_function(name) if name else None
        part.add(
            {"output": source[rows]}, {"output": candidate[rows]}, labels=wanted, function=function
        )
        total.merge(part)
    return total.summary()


def regression(count: int = 60, values: int = 3) -> tuple[Any, Any, Any]:
    """Labels, a source that errs, and a candidate that errs a little more."""
    labels = RANDOM.normal(50, 10, (count, values)).astype(np.float32)
    source = labels + RANDOM.normal(0, 2, labels.shape).astype(np.float32)
    candidate = source + RANDOM.normal(0, 1, labels.shape).astype(np.float32)
    return labels, source, candidate


def test_floats_are_judged_by_their_rmse_whose_growth_is_relative() -> None:
    labels, source, candidate = regression()
    result = batched(source, candidate, labels)
    rmse, source_rmse = (
        float(np.sqrt(np.square(item - labels).mean())) for item in (candidate, source)
    )
    assert (result["metric"], result["higher_is_better"]) == ("rmse", False)
    assert result["score"] == pytest.approx(rmse, rel=1e-6)
    assert result["source_score"] == pytest.approx(source_rmse, rel=1e-6)
    assert result["drop"] == pytest.approx(rmse / source_rmse - 1, rel=1e-5)
    assert result["drop_low"] < result["drop"] < result["drop_high"]
    assert result["accuracy"] is result["accuracy_drop"] is result["classes"] is None
    mae = batched(source, candidate, labels, metric="mae")
    assert mae["score"] == pytest.approx(float(np.abs(candidate - labels).mean()), rel=1e-6)
    assert mae["drop_low"] < mae["drop"] < mae["drop_high"]
    assert mae["rmse"] == result["score"]


def test_one_value_may_have_labels_of_one_axis() -> None:
    labels, source, candidate = regression(values=1)
    flat = batched(source, candidate, labels[:, 0])
    assert flat == batched(source, candidate, labels)
    assert flat == batched(source[:, 0], candidate[:, 0], labels[:, 0])


def test_the_agreement_of_values_is_their_coefficient_of_determination() -> None:
    from sklearn.metrics import r2_score

    # Far from 0, where naive sums of squares would have lost the spread.
    _, source, candidate = regression()
    source, candidate = source.astype(np.float64) + 1e8, candidate.astype(np.float64) + 1e8
    result = batched(source, candidate)
    wanted = r2_score(source, candidate, multioutput="variance_weighted")
    assert result["metric"] == "value_agreement"
    assert result["score"] == result["agreement"] == pytest.approx(wanted, rel=1e-6)
    assert result["drop"] == pytest.approx(1 - wanted, rel=1e-6)
    assert batched(source, source)["score"] == 1
    assert batched(source, source[::-1])["score"] == 0


def test_without_labels_probabilities_are_classes_and_other_numbers_are_values() -> None:
    scores = RANDOM.random((30, 4))
    shares = scores / scores.sum(axis=1, keepdims=True)
    assert batched(shares, shares)["metric"] == "agreement"
    assert batched(scores, scores)["metric"] == "value_agreement"
    assert batched(scores, scores, metric="top_1")["metric"] == "agreement"
    assert batched(shares, shares, metric="rmse")["metric"] == "value_agreement"
    single = shares[:, :1]
    assert batched(single, single)["metric"] == "agreement"
    # What no sigmoid gives is a value, though all lie in 0 to 1.
    assert batched(single, single, threshold=0)["metric"] == "value_agreement"
    assert batched(shares[:, np.newaxis], shares[:, np.newaxis])["metric"] == "token_agreement"


def test_values_that_are_no_numbers_have_no_mean_error() -> None:
    labels, source, candidate = regression()
    candidate[5, 1] = np.nan
    with pytest.raises(UnsupportedError, match=r"candidate's output is NaN[\s\S]*1 such"):
        batched(source, candidate, labels)
    with pytest.raises(UnsupportedError, match="source's output is NaN"):
        batched(candidate, source, labels)


def test_a_source_without_any_error_leaves_nothing_to_grow() -> None:
    labels, _, candidate = regression()
    with pytest.raises(UnsupportedError, match=r"RMSE is not above 0[\s\S]*leave out labels"):
        batched(labels, candidate, labels)


def test_tokens_are_counted_without_their_padding() -> None:
    source, candidate = RANDOM.random((2, 40, 6, 5))
    labels = RANDOM.integers(0, 5, (40, 6))
    labels[RANDOM.random((40, 6)) < 0.3] = -1
    labels[3] = -1
    result = batched(source, candidate, labels)
    real = labels >= 0
    right, source_right = (item.argmax(-1)[real] == labels[real] for item in (candidate, source))
    assert result["metric"] == "token_accuracy"
    assert (result["count"], result["tokens"]) == (40, real.sum())
    assert result["score"] == result["accuracy"] == np.mean(right)
    assert result["source_score"] == np.mean(source_right)
    assert result["agreement"] == np.mean(candidate.argmax(-1)[real] == source.argmax(-1)[real])
    assert result["drop_low"] < result["drop"] < result["drop_high"]
    assert result["accuracy_drop_low"] == result["drop_low"]


def test_labels_that_are_all_padding_are_refused() -> None:
    scores = RANDOM.random((4, 6, 5))
    with pytest.raises(ExamplesError, match="padding"):
        batched(scores, scores, np.full((4, 6), -1))


def test_pixels_are_tokens_too_and_one_value_is_two_classes() -> None:
    scores = RANDOM.random((4, 6, 6, 1))
    labels = (scores[..., 0] > 0.5).astype(int)
    for wanted in (labels, labels[..., np.newaxis]):
        result = batched(scores, 1 - scores, wanted)
        assert (result["source_score"], result["score"]) == (1, 0)
        assert (result["threshold"], result["threshold_origin"]) == (0.5, "the test")


def test_class_ids_are_compared_by_equality() -> None:
    labels = RANDOM.integers(0, 5, 60)
    source, candidate = (
        np.where(RANDOM.random(60) < wrong, RANDOM.integers(0, 5, 60), labels)
        for wrong in (0.1, 0.3)
    )
    for shape, dtype in (((60,), np.int64), ((60, 1), np.int32), ((60,), np.uint8)):
        item, other = (array.reshape(shape).astype(dtype) for array in (source, candidate))
        result = batched(item, other, labels)
        assert (result["metric"], result["threshold"]) == ("top_1", None)
        assert result["source_accuracy"] == np.mean(source == labels)
        assert result["accuracy"] == np.mean(candidate == labels)
        assert result["drop"] == pytest.approx(result["source_accuracy"] - result["accuracy"])
        assert result["drop_low"] < result["drop"] < result["drop_high"]
        assert result["agreement"] == np.mean(source == candidate)
        for row in result["classes"]:
            chosen = labels == row["class"]
            assert row["count"] == chosen.sum()
            assert row["accuracy"] == np.mean(candidate[chosen] == row["class"])
            assert row["source_accuracy"] == np.mean(source[chosen] == row["class"])
        worst = result["most_confused"][0]
        mistaken = (labels == worst["label"]) & (candidate == worst["predicted"])
        assert worst["count"] == mistaken.sum()


def test_integers_without_labels_agree_where_they_are_equal() -> None:
    source = RANDOM.integers(0, 10**9, 60)
    candidate = source + (RANDOM.random(60) < 0.2)
    for metric in ("auto", "top_1", "rmse"):
        result = batched(source, candidate, metric=metric)
        assert result["metric"] == "agreement"
        assert result["score"] == np.mean(source == candidate)
    flags = batched(source > 5e8, candidate > 5e8)
    assert flags["agreement"] == np.mean((source > 5e8) == (candidate > 5e8))


def test_class_ids_of_tokens_leave_padding_out() -> None:
    labels = RANDOM.integers(0, 5, (40, 6))
    labels[RANDOM.random((40, 6)) < 0.3] = -1
    source = np.maximum(labels, 0)
    candidate = np.where(RANDOM.random((40, 6)) < 0.2, 4, source).astype(np.int32)
    result = batched(source, candidate, labels)
    real = labels >= 0
    assert (result["metric"], result["tokens"]) == ("token_accuracy", real.sum())
    assert (result["source_score"], result["score"]) == (1, np.mean((candidate == labels)[real]))
    assert result["drop_low"] < result["drop"] < result["drop_high"]
    assert batched(source, candidate)["metric"] == "token_agreement"


def test_integers_with_a_label_for_each_row_of_them_are_scores() -> None:
    scores = RANDOM.integers(0, 255, (60, 4)).astype(np.uint8)
    result = batched(scores, scores, scores.argmax(axis=1))
    assert (result["accuracy"], result["agreement"]) == (1, 1)


def test_counts_with_labels_of_floats_are_values() -> None:
    counts = RANDOM.integers(0, 9, (60, 1))
    result = batched(counts, counts + 1, counts.astype(np.float32) + 2)
    assert (result["metric"], result["source_score"], result["score"]) == ("rmse", 2, 1)


@pytest.mark.parametrize("metric", ["top_k", "auc"])
def test_class_ids_have_no_ranks(metric: str) -> None:
    labels = RANDOM.integers(0, 2, 20)
    with pytest.raises(UnsupportedError, match="holds class ids"):
        batched(labels, labels, labels, metric=metric)


def test_more_ids_than_can_be_kept_are_scored_all_the_same() -> None:
    labels = np.arange(3000)
    result = batched(labels, labels + 1, labels, size=1500)
    assert (result["source_score"], result["score"]) == (1, 0)
    assert (result["classes"], result["most_confused"]) == (None, None)


@pytest.mark.parametrize(
    ("labels", "metric", "fitting"),
    [
        (np.zeros(4, int), "rmse", "top_1 or top_k or auc"),
        (np.zeros(4, int), "token_accuracy", "top_1"),
        (np.zeros(4, np.float32), "top_1", "rmse or mae"),
        (np.zeros((4, 2), int), "auc", "token_accuracy"),
    ],
)
def test_a_metric_of_other_labels_is_refused(labels: Any, metric: str, fitting: str) -> None:
    with pytest.raises(ParameterError, match=f"{metric} does not go with[\\s\\S]*{fitting}"):
        make_plan(metric, top_k=5, gated="", outputs={"output": labels})


def test_an_unknown_metric_or_output_gets_the_nearest_one() -> None:
    with pytest.raises(ParameterError, match="did you mean 'rmse'"):
        make_plan("rsme", top_k=5, gated="", outputs={"output": None})
    with pytest.raises(ParameterError, match="MODULE:FUNCTION"):
        make_plan("my metrics:dice", top_k=5, gated="", outputs={"output": None})
    with pytest.raises(ParameterError, match="did you mean 'boxes'"):
        make_plan("auto", top_k=5, gated="box", outputs={"boxes": None, "classes": None})


FUNCTIONS = """
import numpy as np

def near(predictions, labels):
    return (np.abs(predictions - labels) < 2).mean(axis=1)

def worst(predictions, labels):
    return np.abs(predictions - labels).max(axis=1)

worst.lower_is_better = True

def both(predictions, labels):
    right = predictions["kind"].argmax(1) == labels["kind"]
    return right * (np.abs(predictions["box"] - labels["box"]).max(axis=1) < 2)

def mean(predictions, labels):
    return np.abs(predictions - labels).mean()

def nan(predictions, labels):
    return np.full(len(labels), np.nan)

def text(predictions, labels):
    return ["good"] * len(labels)

def broken(predictions, labels):
    raise KeyError("boxes")

constant = 3
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Names a function of a module in the working directory, new for each test."""
    module = f"own_metrics_{abs(hash(tmp_path))}"
    (tmp_path / f"{module}.py").write_text(FUNCTIONS)
    (tmp_path / f"{module}_broken.py").write_text("import missing_library\n")
    monkeypatch.chdir(tmp_path)
    return lambda function: f"{module}{'' if function.startswith('_') else ':'}{function}"


def test_the_users_function_is_averaged_over_the_examples(functions: Any) -> None:
    labels, source, candidate = regression()
    result = batched(source, candidate, labels, metric=functions("near"))
    shares = [(np.abs(item - labels) < 2).mean(axis=1) for item in (source, candidate)]
    assert (result["metric"], result["higher_is_better"]) == (functions("near"), True)
    assert result["source_score"] == pytest.approx(shares[0].mean())
    assert result["score"] == pytest.approx(shares[1].mean())
    assert result["drop"] == pytest.approx((shares[0] - shares[1]).mean())
    half = 1.959963984540054 * (shares[0] - shares[1]).std(ddof=1) / np.sqrt(len(labels))
    assert result["drop_high"] == pytest.approx(result["drop"] + half)


def test_less_is_better_where_the_function_says_so(functions: Any) -> None:
    labels, source, candidate = regression()
    result = batched(source, candidate, labels, metric=functions("worst"))
    errors = [np.abs(item - labels).max(axis=1).mean() for item in (source, candidate)]
    assert result["higher_is_better"] is False
    assert result["drop"] == pytest.approx(errors[1] / errors[0] - 1)
    assert result["drop_low"] < result["drop"] < result["drop_high"]


def test_without_labels_the_users_function_gives_way_to_agreement(functions: Any) -> None:
    _, source, candidate = regression()
    assert batched(source, candidate, metric=functions("near"))["metric"] == "value_agreement"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mean", r"one finite number for each of the 7[\s\S]*shape \[\]"),
        ("nan", "NaN or infinity"),
        ("text", "received: list"),
        ("broken", r"broken failed on a batch[\s\S]*KeyError: 'boxes'"),
        ("constant", "no function 'constant'[\\s\\S]*broken, mean"),
        ("absent", "no function 'absent'"),
        ("_broken:near", "can't be imported[\\s\\S]*missing_library"),
        ("_absent:near", "can't be imported[\\s\\S]*No module"),
    ],
)
def test_a_function_that_does_not_do_is_named(functions: Any, function: str, message: str) -> None:
    labels, source, candidate = regression()
    with pytest.raises(ParameterError, match=message):
        batched(source, candidate, labels, metric=functions(function))


def two_outputs() -> tuple[Any, Any, Any]:
    boxes, source, candidate = regression(values=4)
    kinds = RANDOM.integers(0, 3, len(boxes))
    scores = np.eye(3)[kinds]
    labels = {"box": boxes, "kind": kinds}
    return labels, {"box": source, "kind": scores}, {"box": candidate, "kind": scores[::-1]}


@pytest.mark.parametrize(("gated", "metric"), [("", "rmse"), ("box", "rmse"), ("kind", "top_1")])
def test_the_first_output_is_told_before_the_others(gated: str, metric: str) -> None:
    labels, source, candidate = two_outputs()
    tally = Tally(make_plan("auto", top_k=5, gated=gated, outputs=labels))
    tally.add(source, candidate, labels=labels)
    result = tally.summary()
    other = "kind" if metric == "rmse" else "box"
    assert (result["output"], result["metric"]) == ("box" if other == "kind" else "kind", metric)
    (answer,) = result["other_outputs"].values()
    assert set(result["other_outputs"]) == {other}
    assert {"rmse", "top_1"} == {result["metric"], answer["metric"]}
    # Of each, unless one is named.
    assert result["gated_outputs"] == (1 if gated else 2)
    alone = batched(source[other], candidate[other], labels[other])
    assert answer["drop"] == pytest.approx(alone["drop"])


def test_the_first_output_with_labels_comes_first() -> None:
    labels, source, candidate = two_outputs()
    tally = Tally(
        make_plan("auto", top_k=5, gated="", outputs={"box": None, "kind": labels["kind"]})
    )
    tally.add(source, candidate, labels={"kind": labels["kind"]})
    result = tally.summary()
    assert (result["output"], result["metric"]) == ("kind", "top_1")
    assert result["other_outputs"]["box"]["metric"] == "value_agreement"


def test_a_function_of_several_outputs_gets_all_of_them(functions: Any) -> None:
    labels, source, candidate = two_outputs()
    tally = Tally(make_plan(functions("both"), top_k=5, gated="", outputs=labels))
    tally.add(source, candidate, labels=labels, function=load_function(functions("both")))
    result = tally.summary()
    near = np.abs(source["box"] - labels["box"]).max(axis=1) < 2
    assert result["source_score"] == pytest.approx(near.mean())
    assert result["score"] < result["source_score"]
    assert result["gated_outputs"] == 1


def test_the_intervals_cover_the_true_drop_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    covered: dict[str, list[bool]] = {"rmse": [], "mae": [], "tokens": []}
    growth = np.sqrt(1 + 0.3**2) - 1
    for _ in range(1000):
        source = generator.normal(size=200)
        candidate = source + generator.normal(size=200) * 0.3
        squared, absolute, tokens = PairedMeans(), PairedMeans(), TokenSums()
        squared.add(np.square(source), np.square(candidate))
        absolute.add(np.abs(source), np.abs(candidate))
        low, high = squared.growth_interval(0.5) or (0, 0)
        covered["rmse"].append(low <= growth <= high)
        low, high = absolute.growth_interval() or (0, 0)
        covered["mae"].append(low <= growth <= high)
        # Whole examples go wrong, not single tokens.
        lengths = generator.integers(1, 20, 200).astype(float)
        tokens.add(lengths * (generator.random(200) < 0.1), lengths)
        low, high = tokens.interval() or (0, 0)
        covered["tokens"].append(low <= 0.1 <= high)
    for shares in covered.values():
        assert 0.92 < np.mean(shares) < 0.98


def test_one_example_has_no_interval() -> None:
    means, tokens = PairedMeans(), TokenSums()
    means.add(np.ones(1), np.ones(1))
    tokens.add(np.ones(1), np.ones(1))
    assert means.difference_interval() is means.growth_interval() is tokens.interval() is None


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_labels_of_which_several_apply_are_each_held_to_the_threshold(dtype: Any) -> None:
    source, candidate = RANDOM.random((2, 60, 4))
    labels = (source > 0.4).astype(dtype)
    result = batched(source, candidate, labels)
    assert (result["metric"], result["tokens"]) == ("token_accuracy", 240)
    assert result["source_score"] == np.mean((source > 0.5) == labels)
    assert result["score"] == np.mean((candidate > 0.5) == labels)


def test_floats_of_zeros_and_ones_are_classes_of_probabilities_alone() -> None:
    source, candidate = RANDOM.random((2, 60, 1))
    labels = (source[:, 0] > 0.4).astype(np.float32)
    result = batched(source, candidate, labels)
    assert (result["metric"], result["threshold"]) == ("top_1", 0.5)
    assert result["score"] == np.mean((candidate[:, 0] > 0.5) == labels)
    assert batched(source, candidate, labels, threshold=0)["metric"] == "rmse"
    assert batched(source, candidate, labels, metric="rmse")["metric"] == "rmse"
    assert batched(source, candidate, labels / 2)["metric"] == "rmse"


def _one_hot_batches(source: Any, candidate: Any, labels: Any, metric: str = "auto") -> Any:
    """As `batched`, for an output without a threshold."""
    total = Tally(make_plan(metric, top_k=2, gated="", outputs={"output": labels}))
    for start in range(0, len(source), 7):
        part, rows = Tally(total.plan), slice(start, start + 7)
        part.add(
            {"output": source[rows]}, {"output": candidate[rows]}, labels={"output": labels[rows]}
        )
        total.merge(part)
    return total.summary()


@pytest.mark.parametrize("metric", ["auto", "top_k"])
def test_one_hot_rows_are_scored_as_their_class_ids(metric: str) -> None:
    ids = RANDOM.integers(0, 5, 40)
    source, candidate = RANDOM.normal(size=(2, 40, 5)).astype(np.float32)
    rows = np.eye(5, dtype=np.float32)[ids]
    result = _one_hot_batches(source, candidate, rows, metric)
    assert result == _one_hot_batches(source, candidate, ids, metric)
    if metric == "auto":
        assert result["score"] == np.mean(candidate.argmax(axis=1) == ids)
        assert result["metric"] == "top_1"


def test_one_hot_tokens_are_scored_as_their_class_ids_and_rows_of_zeros_are_padding() -> None:
    ids = RANDOM.integers(-1, 4, (20, 6))
    source, candidate = RANDOM.normal(size=(2, 20, 6, 4)).astype(np.float32)
    rows = np.where(ids[..., None] < 0, 0, np.eye(4)[ids]).astype(np.float32)
    result = _one_hot_batches(source, candidate, rows)
    assert result == _one_hot_batches(source, candidate, ids)
    assert result["score"] == np.mean((candidate.argmax(axis=-1) == ids)[ids >= 0])
    assert (result["metric"], result["tokens"]) == ("token_accuracy", np.count_nonzero(ids >= 0))


def test_one_hot_rows_are_flags_of_probabilities_and_values_where_the_metric_says_so() -> None:
    rows = np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, 30)]
    scores = RANDOM.random((30, 3)).astype(np.float32)
    flags = batched(scores, scores, rows, threshold=0.5)
    assert flags["metric"] == "token_accuracy"
    assert flags["score"] == np.mean((scores > 0.5) == rows)
    values = _one_hot_batches(scores, scores, rows, "rmse")
    assert values["score"] == pytest.approx(float(np.sqrt(np.square(scores - rows).mean())))


def test_one_hot_rows_of_other_classes_than_the_models_are_refused() -> None:
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(ExamplesError, match="another shape"):
        _one_hot_batches(np.zeros((4, 3)), np.zeros((4, 3)), rows)
