"""The report, the model card and the programs in them, of a bundle and of a run."""

import html
import html.parser
import json
import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from apps import report
from apps.report import charts
from apps.report import snippets
from apps.report import wording
from cnnkit.training.recipe import changed
from export import bundle as bundles
from export import formats
from export import pipeline
from tests.export import corners
from tests.export import declarations

pytestmark = pytest.mark.export
FORMATS = ("tflite", "tflite-int8", "micro", "onnx", "savedmodel")
# Mitchell et al. 2019, figure 1.
HEADINGS = [
    *("Model Details", "Intended Use", "Factors", "Metrics", "Evaluation Data", "Training Data"),
    *("Quantitative Analyses", "Ethical Considerations", "Caveats and Recommendations"),
]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return corners.subject(corners.save(tmp_path_factory.mktemp("data") / "corners.npz"))


@pytest.fixture(scope="module")
def bundle(subject, tmp_path_factory):
    def extra(folder, manifest):
        manifest["command"] = "cnnkit run `corners`"
        report.write_report(folder, manifest, subject)

    out = tmp_path_factory.mktemp("bundles") / "corners"
    return bundles.write(subject, FORMATS, out=out, extra=extra)


@pytest.fixture(scope="module")
def page(bundle):
    return (bundle.folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def card(bundle):
    return (bundle.folder / "MODEL_CARD.md").read_text("utf-8")


class Reader(html.parser.HTMLParser):
    """Collects what a browser would show, and which elements it would make."""

    def __init__(self, text):
        super().__init__()
        self.shown, self.elements = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)

    def handle_data(self, data):
        self.shown.append(data)


def rendered(text):
    return Reader(MarkdownIt("gfm-like", {"linkify": False}).render(text))


def test_the_front_matter_is_what_hubs_read(card):
    _, front, _ = card.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found == {
        "license": "other",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": [
            *("image-classification", "keras", "tflite", "tflite-micro", "onnx", "tf-serving"),
            "cnnkit",
        ],
        "metrics": ["accuracy", "f1"],
        "model_name": "corners",
    }


def test_the_card_has_the_headings_and_says_what_is_to_be_written(card):
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == [*HEADINGS, "How to use it"]
    sections = dict(zip(HEADINGS, re.split(r"^## .*$", card, flags=re.MULTILINE)[1:], strict=False))
    for name in ("Intended Use", "Ethical Considerations", "Caveats and Recommendations"):
        assert "TODO" in sections[name]
    # What a machine knows, no human has to write.
    assert "TODO" not in sections["Metrics"]
    assert "21 pictures of the test part" in sections["Evaluation Data"]
    assert "accuracy 100.00 %" in sections["Quantitative Analyses"]
    assert "| tflite-int8 | " in sections["Model Details"]


def test_class_names_are_shown_as_they_are(card, page):
    for found in (rendered(card.split("---\n", 2)[2]), Reader(page)):
        shown = "".join(found.shown)
        assert all(label in shown for label in corners.LABELS)
    assert "b" not in rendered(card).elements


def numbers(text):
    """Returns the numbers in a text, as they are written."""
    return set(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-\d+)?", text))


def written(value):
    """Returns how the numbers in a part of a manifest may be written in the card."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return set().union(*map(written, value))
    if isinstance(value, str):
        return numbers(value)
    if not isinstance(value, int | float):
        return set()
    forms = (value, f"{value:,}", f"{value:.3g}", f"{100 * value:.1f}", f"{100 * value:.2f}")
    return set().union(*(numbers(str(form)) for form in forms))


def test_every_number_in_the_card_is_from_the_files(bundle, card):
    scores = bundle.manifest["scores"]
    spared = 1 - (1 - scores["accuracy"]) / (1 - scores["majority"])
    text = re.sub(r"^```.*?^```$", "", card.split("---\n", 2)[2], flags=re.DOTALL | re.MULTILINE)
    template = files("apps").joinpath("report/card.md.j2").read_text("utf-8")
    told = {name: part for name, part in bundle.manifest.items() if name != "files"}  # hashes
    known = numbers(template) | written(told) | written(f"{spared:.0%}")
    data = bundle.data_manifest()
    known |= written([data.path, data.counts(), data.summary(), data.seed, wording._FEW])
    found = numbers(text.replace("\\", ""))
    assert len(found) > 30
    assert found - known == set()


HOSTILE = [
    *("a|b", "[x](javascript:1)", "![x](http://e.x/y.png)", "`x`", "a\n# heading", "<script>x"),
    *(
        "http://e.x",
        "*b* _i_ ~~s~~",
        "1. x",
        "- x",
        "&lt;",
        "\\|",
        "a\u202eb",
        "{{ 7 * 7 }}",
        "$x$",
    ),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(name):
    shown = report.markdown(name)
    found = rendered(f"| class |\n|---|\n| {shown} |\n\n{shown}\n\n- {shown}\n")
    assert found.elements == {"table", "thead", "tbody", "tr", "th", "td", "p", "ul", "li"}
    want = name if name.isprintable() else repr(name)[1:-1]
    assert [text for text in found.shown if want in text] == [want] * 3


def test_the_report_has_pareto_reliability_and_the_worst_classes(page, bundle):
    assert page.count("<svg") == 3  # and no curves, since nothing was trained
    assert "<h2>Calibration</h2>" in page
    assert re.search(r"Expected calibration error \d+\.\d\d %, over 15 bins", page)
    assert page.count("none loses") == sum(
        not row["worst_drop"] for row in bundle.manifest["verdicts"]
    )
    assert html.escape("int8 has 256 levels: pictures near a border change sides") in page


def test_what_other_runtimes_and_vela_say(subject, tmp_path):
    def extra(folder, manifest):
        manifest["command"] = "cnnkit run corners"
        report.write_report(folder, manifest, subject)

    recipe = changed(subject.recipe, {"export.target": "ethos-u55:ram=64KB"}).recipe
    made = bundles.write(
        replace(subject, recipe=recipe), ["micro"], out=tmp_path / "npu", extra=extra
    )
    page = (made.folder / "report.html").read_text("utf-8")
    warnings, opinions = page.partition("<h2>Second opinions</h2>")[::2]
    (opinion,) = made.manifest["verdicts"][0]["opinions"]
    assert opinion.startswith("TFLite Micro: ")
    assert f"micro: {opinion}" in Reader(opinions).shown
    assert "TFLite Micro: " not in warnings
    told = made.manifest["target"]
    shown = " ".join(" ".join(Reader(page).shown).split())
    for name in ("cycles", "macs", "sram_bytes", "dram_bytes", "flash_bytes", "weight_bytes"):
        assert f"{told['vela'][name]:,}" in shown, name
    assert f"ops on the NPU {told['vela']['share']:.2%}".replace("%", " %") in shown
    assert f"RAM {told['ram_bytes']:,} 64,000" in shown
    card = (made.folder / "MODEL_CARD.md").read_text("utf-8")
    assert opinion in "".join(rendered(card).shown)


def test_the_programs_have_the_names_of_the_files(bundle):
    made = {one.language: one.text for one in snippets.write(bundle.folder, "corners", FORMATS)}
    assert list(made) == [
        *("Python, LiteRT", "Kotlin, Android", "Swift, iOS", "C++, LiteRT"),
        *("C++, TFLite Micro", "Python, ONNX Runtime", "curl, TF Serving"),
    ]
    for language in list(made)[:4]:
        assert "image: uint8 (1, 8, 8, 1)" in made[language].replace("Input 0, ", "")
        assert "probabilities: float32 (1, 3)" in made[language].replace("Output 0, ", "")
        assert "tflite/corners_int8.tflite" in made[language]
    assert "allocateDirect(64)" in made["Kotlin, Android"]
    assert (
        'mapOf("image" to image), mapOf("probabilities" to scores), "serving_default"'
        in made["Kotlin, Android"]
    )
    assert "image: float32 (-1, 8, 8, 1)" in made["Python, ONNX Runtime"]
    assert "image: float32 (-1, 8, 8, 1)" in made["curl, TF Serving"]
    assert (bundle.folder / "serving/request_example.json").is_file()
    float32 = {
        one.language: one.text for one in snippets.write(bundle.folder, "corners", FORMATS[:1])
    }
    assert "allocateDirect(256)" in float32["Kotlin, Android"]
    assert "typed_input_tensor<float>(0)" in float32["C++, LiteRT"]


@pytest.mark.parametrize(
    ("passed", "language"),
    [
        ("tflite-int8", "Python, LiteRT"),
        ("tflite", "Python, LiteRT"),
        ("onnx", "Python, ONNX Runtime"),
    ],
)
def test_the_python_programs_give_what_golden_json_says(
    bundle, passed, language, monkeypatch, capsys
):
    (text,) = (
        one.text
        for one in snippets.write(bundle.folder, "corners", [passed])
        if one.language == language
    )
    monkeypatch.chdir(bundle.folder)
    exec(compile(text, "snippet.py", "exec"), {})
    winner, scores = capsys.readouterr().out.split(" ", 1)
    want = json.loads((bundle.folder / "golden.json").read_text())["pictures"][0]["expected"]
    assert int(winner) == np.argmax(want[passed])
    np.testing.assert_allclose(json.loads(scores), want[passed], atol=1e-5)


@pytest.mark.parametrize("passed", ["tflite-int8", "tflite", "micro"])
def test_the_cpp_programs_compile(bundle, passed, tmp_path):
    (text,) = (
        one.text for one in snippets.write(bundle.folder, "corners", [passed]) if one.code == "cpp"
    )
    declarations.check(text, tmp_path, bundle.folder / "micro")


def test_the_front_by_hand():
    points = [("d", 9, 0.9), ("a", 1, 0.5), ("b", 2, 0.5), ("c", 2, 0.8), ("e", 3, 0.7)]
    assert [name for name, *_ in charts.front(points)] == ["a", "c", "d"]
    assert "<svg" in charts.pareto(points)


def test_names_in_any_script_stand_in_the_charts_as_text():
    chart = charts.confusion([[1, 0, 0], [0, 1, 0], [0, 0, 1]], corners.LABELS)
    assert html.escape(corners.LABELS[0]) in chart
    assert corners.LABELS[2] in chart


def test_reliability_of_answers_that_are_all_right_and_a_little_too_sure():
    assert "<svg" in charts.reliability(np.array([0.5, 1.0000001]), np.array([True, True]))


def test_report_of_a_run(cnnkit, subject, tmp_path):
    run = pipeline.write_run(pipeline.compress(subject, []), tmp_path / "corners")
    done = cnnkit("report", run)
    assert (done.code, done.err) == (0, "")
    card = (tmp_path / "corners" / "MODEL_CARD.md").read_text("utf-8")
    page = (tmp_path / "corners" / "report.html").read_text("utf-8")
    assert "Of the keras file: accuracy 100.00 %" in card
    assert "<h2>Files</h2>" not in page
    assert "<h2>Calibration</h2>" in page


def test_report_of_a_bundle_goes_elsewhere(cnnkit, bundle, card, tmp_path):
    assert bundle.broken_files() == {}
    refused = cnnkit("report", bundle.folder)
    assert refused.code == 2
    assert "Name a place outside of it with --html or --card" in refused.errors[0]
    inside = cnnkit("report", bundle.folder, "--html", bundle.folder / "new.html")
    assert inside.code == 2
    assert "This would change a bundle" in inside.errors[0]
    done = cnnkit("report", bundle.folder, "--card", "card.md")
    assert (done.code, done.err, done.out.strip()) == (0, "", "card: card.md")
    assert (tmp_path / "card.md").read_text("utf-8") == card
    assert bundle.broken_files() == {}
    assert formats.get("tflite").path("corners").as_posix() in bundle.manifest["files"]
