"""The page that `report` writes."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.page import Page

from paring.artifacts import (
    Failure,
    ModelProfile,
    Report,
    RuntimeConfiguration,
    Selection,
    TFLiteModel,
    TPUReadiness,
    TRTEngine,
)
from paring.errors import ArtifactTypeError, ParameterError
from paring.execution import Call, execute
from paring.steps.report import report

IMPORTED = {
    "step": "import_model",
    "output": "model",
    "version": "1",
    "parameters": {"trust_model": False},
    "inputs": {"original": {"type": "Model", "digest": "sha256:aa", "path": "digits/model"}},
    "environment": {"tensorflow": "2.21.0", "keras": "absent"},
}
EXAMPLES = {
    "type": "Examples",
    "digest": "sha256:ee",
    "lineage": {"step": "import_examples", "output": "examples"},
}
PRUNED = {
    "step": "prune",
    "output": "pruned",
    "version": "3",
    "parameters": {"sparsity": 0.6},
    "inputs": {
        "examples": EXAMPLES,
        "model": {"type": "Model", "digest": "sha256:bb", "lineage": IMPORTED},
    },
    "environment": {"tensorflow": "2.21.0", "keras": "absent"},
}
CONVERTED = {
    "step": "convert_tflite",
    "output": "converted",
    "version": "2",
    "parameters": {"quantization": "int8"},
    "inputs": {
        "model": {"type": "PrunedModel", "digest": "sha256:cc", "lineage": PRUNED},
        "examples": EXAMPLES,
    },
    "environment": {"tensorflow": "2.21.0", "keras": "absent", "paring": "0.1.0"},
}


@pytest.fixture
def measured(family: Any) -> Any:
    """A winner, a loser, a rejected and an unsupported candidate."""
    family.add(
        "int8",
        lineage=CONVERTED,
        accuracy=0.975,
        p50_ms=2.0,
        speedup=5.0,
        size_bytes=250_000,
    )
    family.add("fp16", p50_ms=4.0, speedup=2.5, size_bytes=500_000)
    family.add("poor", accuracy=0.6, p50_ms=1.9, speedup=5.2, size_bytes=250_000)
    family.add("odd", failure=Failure("unsupported", "prune", "<b>Rescaling</b> & others"))
    family.select(recipes=json.dumps({"int8": "prune(sparsity=0.6) > convert_tflite"}))
    return family


def write(
    family: Any,
    profile: Path | None = None,
    others: dict[str, Path] | None = None,
    **parameters: str,
) -> str:
    inputs: dict[str, Any] = family.inputs | {"selection": family.root / "selection"}
    if profile is not None:
        inputs["profile"] = profile
    inputs |= others or {}
    outputs = execute(report, Call(inputs, {"report": family.root / "report"}, parameters))
    page = outputs["report"]
    assert isinstance(page, Report)
    return page.file.read_text(encoding="utf-8")


@pytest.fixture
def profiled(tmp_path: Path) -> Path:
    path = tmp_path / "profile"
    path.mkdir()
    content = {
        "parameters": 38_954,
        "weight_bytes": 155_816,
        "flops": 5_613_312,
        "uncounted": ["While"],
        "activation_bytes": 131_072,
        "operators": {"Conv2D": 6, "Relu": 11},
        "signature": {
            "inputs": {"image": {"shape": [None, 32, 32, 1], "dtype": "float32"}},
            "outputs": {"digit": {"shape": [None, 10], "dtype": "float32"}},
        },
        "largest_weights": [
            {"name": "dense/kernel", "shape": [64, 10], "dtype": "float32", "size_bytes": 2_560}
        ],
        "findings": [
            {
                "rule": "one_hot_product",
                "severity": "high",
                "place": "words/<OneHot>",
                "cost": "1 of 500 factors is not zero",
                "fix": "take the rows with tf.gather",
            }
        ],
    }
    (path / "profile.json").write_text(json.dumps(content))
    ModelProfile(path).save()
    return path


def test_the_page_is_whole_and_asks_nothing_of_the_network(measured: Any, profiled: Path) -> None:
    text = write(measured, profiled, title="Digits", command="paring run --model m")
    page = Page(text)
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert page.references != []
    for reference in page.references:
        assert reference.startswith("#")
        assert reference[1:] in page.ids


def test_no_two_elements_share_an_id(measured: Any, profiled: Path) -> None:
    ids = Page(write(measured, profiled)).ids
    assert [item for item, count in Counter(ids).items() if count > 1] == []


def test_the_same_inputs_give_the_same_bytes(measured: Any, profiled: Path) -> None:
    assert write(measured, profiled) == write(measured, profiled)


def test_the_verdict_every_candidate_and_every_reason_are_there(measured: Any) -> None:
    words = Page(write(measured)).words
    assert "int8 is 5.00× faster (4.98 to 5.02) and 4.0× smaller than the source" in words
    selection = json.loads((measured.root / "selection/selection.json").read_text())
    for row in selection["candidates"]:
        assert row["id"] in words
        for reason in row["reasons"]:
            assert re.sub(r"(?<=\d)x\b", "×", reason) in words
    assert "prune(sparsity=0.6) > convert_tflite" in words


def test_layers_in_float_and_notes_are_shown(family: Any) -> None:
    family.add("mixed", speedup=2.0)
    made = TFLiteModel.load(family.path("candidates", "mixed"))
    made.layers, made.layers_in_float, made.note = 12, 1, "calibrated on too few examples, 4"
    rows = [
        {"name": f"conv_{n}/Relu", "operator": "CONV_2D", "error": 0.5 / 2**n, "in_float": n < 1}
        for n in range(12)
    ]
    made.layer_table.write_text(json.dumps(rows))
    made.save()
    family.select()
    words = Page(write(family)).words
    assert "mixed: 1 of 12 layers in float" in words
    assert "conv_0/ReluCONV_2D50.0%float" in words
    assert "conv_1/ReluCONV_2D25.0%int8" in words
    # The ten worst are enough to see what hurts.
    assert "conv_9/Relu" in words
    assert "conv_10/Relu" not in words
    assert "calibrated on too few examples, 4" in words


def test_an_engines_layers_are_shown_with_their_precision_and_what_they_were_made_of(
    family: Any,
) -> None:
    family.add("engine", speedup=2.0)
    family.add("no-engine", speedup=2.0)
    layers = [
        {"name": f"conv_{n}", "type": "correlation", "precision": "int8", "nodes": ["c", "<r>"][n:]}
        for n in range(2)
    ]
    for name in ("engine", "no-engine"):
        made = TRTEngine(family.path("candidates", name), size_bytes=9)
        made.engine_layers = ("float32 1", "int8 2")
        made.network_layers = ("float32 9", "int8 3")
        if name == "engine":
            signal = {"name": "signal", "type": "signal", "precision": "", "nodes": []}
            made.layer_table.write_text(json.dumps([signal, *layers]))
        made.save()
    family.select()
    words = Page(write(family)).words
    assert "engine: 3 layers (float32 1, int8 2), made of float32 9, int8 3" in words
    # Those of the most nodes first.
    rows = ["conv_0correlationint8c, <r>", "conv_1correlationint8<r>", "signalsignal–"]
    places = [words.index(row) for row in rows]
    assert places == sorted(places)
    assert words.count("layers (") == 1


def test_text_from_outside_is_escaped(measured: Any) -> None:
    text = write(measured, title="<script>alert(1)</script>", command='x "</pre><script>"')
    page = Page(text)
    assert page.tags["script"] == 0
    assert "<b>Rescaling" not in text
    assert "<b>Rescaling</b> & others" in page.words


def test_a_dollar_in_a_name_is_no_formula(family: Any) -> None:
    family.add("a$b$c_d<e>", speedup=2.0)
    family.select()
    assert Page(write(family)).words.count("a$b$c_d<e>") >= 4


def test_the_lineage_runs_from_the_source_to_the_winner(measured: Any) -> None:
    words = Page(write(measured)).words
    chain = words[words.index("How int8 was made") : words.index("Make it again")]
    result = [
        chain.index(item) for item in ("digits/model", "import_model", "prune", "convert_tflite")
    ]
    assert result == sorted(result)
    assert [chain.index(f"sha256:{item}") for item in ("aa", "bb", "cc")] == sorted(
        chain.index(f"sha256:{item}") for item in ("aa", "bb", "cc")
    )
    assert "sparsity=0.6" in chain
    assert "import_examples" not in chain


def test_the_environment_and_the_command_are_shown(measured: Any) -> None:
    words = Page(write(measured, command="paring run --model m --out o")).words
    for text in ("Example CPU", "Example GPU", "8.00 GB", "2.21.0", "paring run --model m --out o"):
        assert text in words
    assert "absent" not in words


def test_the_profile_is_shown(measured: Any, profiled: Path) -> None:
    words = Page(write(measured, profiled)).words
    for text in ("39.0 k", "5.61 M", "131 KB", "dense/kernel", "64×10", "Conv2D", "While"):
        assert text in words
    assert "? × 32 × 32 × 1 float32" in words
    finding = ("one hot producthigh", "words/<OneHot>", "1 of 500 factors", "rows with tf.gather")
    for text in finding:
        assert text in words


def test_a_model_without_findings_is_told_so(measured: Any, profiled: Path) -> None:
    file = profiled / "profile.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"findings": []}))
    ModelProfile.load(profiled).save()
    words = Page(write(measured, profiled)).words
    assert "The audit of its graph found nothing to change" in words


def _readiness(folder: Path, *refusals: dict[str, str]) -> dict[str, Path]:
    folder.mkdir()
    operators = [
        {"place": f"dense_{n}/MatMul", "kind": "MatMul", "waste": 0.75 - n / 100} for n in range(12)
    ]
    content = {
        **{"batch_size": 128, "precision": "bfloat16", "ready": not refusals},
        **{"refusals": refusals, "compute_waste": 0.69, "memory_waste": 0.22},
        **{"uncounted": ["loop/While"], "operators": operators},
    }
    (folder / "tpu.json").write_text(json.dumps(content))
    TPUReadiness(folder).save()
    return {"readiness": folder}


def test_what_a_tpu_refuses_and_wastes_is_shown(measured: Any, tmp_path: Path) -> None:
    refusal = {"place": "lookup/<Find>", "kind": "LookupTableFindV2", "reason": "no XLA kernel"}
    page = Page(write(measured, others=_readiness(tmp_path / "tpu", refusal)))
    assert "A TPU does not take it as it is" in page.words
    for text in ("lookup/<Find>LookupTableFindV2no XLA kernel", "69.0%", "22.0%", "loop/While"):
        assert text in page.words
    assert "dense_9/MatMulMatMul66.0%" in page.words
    assert "dense_10" not in page.words
    words = Page(write(measured, others=_readiness(tmp_path / "ready"))).words
    assert "XLA compiles it for fixed shapes" in words
    assert "What a TPU refuses" not in words


def test_the_settings_that_serve_the_most_are_shown(measured: Any, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    row = {"batch_size": 1, "threads": 1, "instances": 1, "throughput": 1000.0}
    row |= {"p50_ms": 0.9, "p99_ms": 1.1, "peak_memory_bytes": 50_000_000, "why_not": None}
    best = row | {"batch_size": 32, "instances": 2, "throughput": 2500.0, "p99_ms": 7.5}
    lost = row | {"batch_size": 64, "throughput": None, "why_not": "a p99 of 9 ms is over 8 ms"}
    limits = {"max_latency_ms": 8.0, "max_memory_bytes": 4_000_000_000}
    ended = {"limits": limits, "ended": "max_trials were tried", "table": [row, best, lost, best]}
    content = best | {"baseline_throughput": 1000.0} | ended
    (tuned / "configuration.json").write_text(json.dumps(content))
    RuntimeConfiguration(tuned, batch_size=32, threads=1, instances=2).save()
    page = Page(write(measured, others={"configuration": tuned}))
    assert "How int8 serves the most" in page.words
    assert "within 4.00 GB of memory in sum and a 99th percentile of 8 ms" in page.words
    for text in ("Batch size32", "Processes2", "2.50 k", "2.5×", "a p99 of 9 ms is over 8 ms"):
        assert text in page.words.replace("\n", "")


def test_what_could_not_be_tuned_or_checked_is_told(measured: Any, tmp_path: Path) -> None:
    others: dict[str, Path] = {}
    for name, kind in (("readiness", TPUReadiness), ("configuration", RuntimeConfiguration)):
        others[name] = tmp_path / name
        others[name].mkdir()
        kind(others[name], failure=Failure("unsupported", "x", f"no {name} & so on")).save()
    words = Page(write(measured, others=others)).words
    assert "It could not be checked: no readiness & so on" in words
    assert "It could not be tuned: no configuration & so on" in words


def test_what_was_not_given_has_no_section(measured: Any) -> None:
    words = Page(write(measured)).words
    for heading in ("The source model", "on a TPU", "serves the most"):
        assert heading not in words
    assert "runs the whole pipeline" not in words


def test_the_commands_make_the_winner_alone(measured: Any) -> None:
    words = Page(write(measured)).words
    assert "paring step import_model --original digits/model --model again/2-model" in words
    assert "--pruned again/3-pruned --sparsity 0.6" in words


def _searched(stopped: str | None) -> dict[str, Any]:
    tried = {"id": "qat-int8", "recipe": "quantize()", "outcome": "passed", "drop": 0.002}
    known: dict[str, Any] = {"stage": "screening", "why": "of 4 the better 2 go on"}
    open_round = {"outcome": None, "drop": None}
    return {
        "budget_minutes": 10.0,
        "seconds": 61.5,
        "stopped": stopped,
        "rounds": [
            known | {"train_examples": 575, "seconds": 61.5, "tried": [tried]},
            known | {"train_examples": None, "seconds": None, "tried": [tried | open_round]},
            known | {"train_examples": None, "seconds": None, "tried": []},
        ],
    }


def test_how_a_search_went_is_told_round_by_round(measured: Any) -> None:
    measured.select(search=json.dumps(_searched("nothing is left to try")))
    words = Page(write(measured)).words
    assert "had 10 minutes and ended after 3 rounds: nothing is left to try" in words
    for text in ("of 4 the better 2 go on", "qat-int8 passed (\N{MINUS SIGN}0.2)", "575", "61.5"):
        assert text in words
    assert "the source alone" in words


def test_a_search_that_goes_on_says_so(measured: Any) -> None:
    measured.select(search=json.dumps(_searched(None)))
    assert "was still going on" in Page(write(measured)).words


def test_without_a_search_nothing_is_said_of_one(measured: Any) -> None:
    assert "How the search went" not in Page(write(measured)).words


def test_a_selection_of_the_source_is_reported(family: Any) -> None:
    family.select()
    words = Page(write(family)).words
    assert "Make it again" not in words
    assert "Nothing beats the source model" in words
    assert "How the source was made" in words


def test_labels_missing_the_page_speaks_of_agreement(new_family: Any) -> None:
    family = new_family()
    family.add("source", accuracy=None)
    family.add("int8", accuracy=None, agreement=0.995, speedup=4.0)
    family.select()
    words = Page(write(family)).words
    assert "Latency against agreement" in words
    assert "there are no labels" in words


def test_an_error_is_told_in_its_unit_and_grows_by_per_cent(new_family: Any) -> None:
    family = new_family()
    of_values = {"accuracy": None, "metric": "rmse", "higher_is_better": False}
    family.add("source", **of_values, score=54.2, drop=0.0)
    family.add("int8", **of_values, score=54.3, drop=0.0018, agreement=0.998, speedup=4.0)
    family.add("poor", **of_values, score=83.25, drop=0.536, p50_ms=1.5, speedup=6.0)
    family.select()
    page = Page(write(family))
    for text in (
        *("Latency against RMSE", "Gate: RMSE growth of at most 1%", "RMSE (less is better)"),
        *("54.3", "+0.2%", "+53.6%", "in per cent of the source's", "poor (83.25)"),
        "RMSE grows by 53.6%, the gate allows 1.0%",
    ):
        assert text in page.words
    assert "ccuracy" not in page.words


def test_all_outputs_of_a_candidate_are_told(family: Any) -> None:
    box = {"metric": "rmse", "higher_is_better": False, "score": 10.05, "drop": 0.005}
    tag = {"metric": "token_accuracy", "higher_is_better": True, "score": 0.9, "drop": 0.001}
    family.add("int8", speedup=4.0, other_outputs={"box": box, "<tag>": tag})
    family.select()
    page = Page(write(family))
    assert "box: RMSE 10.05 (+0.5%), <tag>: token accuracy 90.0%" in page.words


def test_a_family_that_lacks_a_candidate_is_refused(measured: Any) -> None:
    inputs: dict[str, Any] = measured.inputs | {"selection": measured.root / "selection"}
    del inputs["evaluations"]["fp16"]
    with pytest.raises(ParameterError, match="evaluations: 'fp16'"):
        execute(report, Call(inputs, {"report": measured.root / "report"}))


def test_a_selection_that_was_cut_off_is_refused(measured: Any) -> None:
    file = measured.root / "selection/selection.json"
    file.write_text(file.read_text()[:100])
    Selection.load(file.parent).save()
    with pytest.raises(ArtifactTypeError, match=re.escape("selection.json can't be read")):
        write(measured)
