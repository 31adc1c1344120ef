"""`torchgmm plot`: a file that is a picture, and no option passed over."""

import numpy as np
import pytest
from matplotlib.image import imread

import torchgmm as tg
from tests.cli.common import K2
from torchgmm import plots
from torchgmm.cli import main
from torchgmm.cli.pictures import PICTURES

HEADS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
IRIS = ["--data", "Bundled", "--data.name", "iris"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A fit and a search, as they are left on disk."""
    here = tmp_path_factory.mktemp("runs")
    assert main(["fit", *IRIS, *K2, "--picture", "none", "--out", str(here / "fit")]) == 0
    words = ["--n_components", "1,2", "--covariance", "full,tied", "--out", str(here / "select")]
    assert main(["select", *IRIS, *words]) == 0
    return here


@pytest.fixture
def heard(monkeypatch):
    """What the functions of `plots` were called with."""
    calls = {}
    for name in ("ellipses", "density", "marginal", "pairs", "spectra", "responsibilities",
                 "eigenpatches", "history", "criterion"):  # fmt: skip
        real = getattr(plots, name)

        def call(*args, real=real, name=name, **options):
            calls[name] = (args, options)
            return real(*args, **options)

        monkeypatch.setattr(plots, name, call)
    return calls


@pytest.mark.parametrize(
    ("picture", "suffix"),
    [*((picture, ".png") for picture in (*PICTURES, "history")),
     *((picture, suffix) for picture in ("ellipses", "responsibilities") for suffix in HEADS)],
)  # fmt: skip
def test_a_picture_is_written_to_its_file(picture, suffix, runs, tmp_path, capsys):
    out = tmp_path / f"picture{suffix}"
    data = IRIS if picture not in ("history", "spectra") else []
    assert main(["plot", str(runs / "fit"), picture, *data, "--out", str(out)]) == 0
    content = out.read_bytes()
    assert content.startswith(HEADS[suffix])
    # more than axes and labels
    assert len(content) > 6000
    said = capsys.readouterr().out
    assert f"picture  {picture}\n" in said
    assert f"written  {out}\n" in said


def test_a_search_is_drawn_as_it_was_found(runs, tmp_path, heard, capsys):
    out = tmp_path / "bic.png"
    assert main(["plot", str(runs / "select"), "criterion", "--out", str(out)]) == 0
    ((found, ax), _) = heard["criterion"]
    assert found.families == ("full", "tied")
    assert found.chosen[0] == tg.load(runs / "select" / "mixture.safetensors").n_components
    assert ax.get_ylabel() == "BIC (lower is better)"


@pytest.mark.parametrize(
    ("file", "words", "picture"),
    [
        ("fit", [], "ellipses"),  # four features, a square number, but nobody says images
        ("fit/result.json", [], "history"),
        ("select/selection.json", [], "criterion"),
        ("fit", ["--features", "1"], "marginals"),
        ("fit", ["--features", "1,3"], "ellipses"),
        ("fit", ["--features", "[1, 3, 0]"], "pairs"),
    ],
)
def test_auto_goes_by_the_file_and_the_features(file, words, picture, runs, tmp_path, capsys):
    out = str(tmp_path / "picture.png")
    assert main(["plot", str(runs / file), *words, "--out", out]) == 0
    assert f"picture  {picture}\n" in capsys.readouterr().out


def test_the_words_of_the_line_reach_the_picture(runs, tmp_path, heard, capsys):
    labels = np.arange(150) // 50
    np.save(tmp_path / "species.npy", labels)
    words = ["--features", "petal width (cm),0", "--labels", str(tmp_path / "species.npy")]
    words += ["--rows", "60", "--size", "5,4", "--dpi", "50", "--title", "Iris"]
    out = tmp_path / "picture.png"
    assert main(["plot", str(runs / "fit"), "ellipses", *IRIS, *words, "--out", str(out)]) == 0
    (_, ax), options = heard["ellipses"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("petal width (cm)", "sepal length (cm)")
    assert options["plane"] == (3, 0)
    assert len(options["rows"]) == 60
    # each label is that of its row: iris comes in blocks of fifty of a species
    from sklearn.datasets import load_iris

    known = {}
    for row, label in zip(load_iris().data.tolist(), labels.tolist(), strict=True):
        known.setdefault(tuple(row), set()).add(label)
    for row, label in zip(options["rows"].tolist(), options["labels"].tolist(), strict=True):
        assert label in known[tuple(row)]
    assert len(set(options["labels"].tolist())) == 3
    assert ax.figure.get_suptitle() == "Iris"
    assert imread(out).shape[:2] == (200, 250)


def test_labels_may_be_the_likeliest_components(runs, tmp_path, heard, capsys):
    out = str(tmp_path / "picture.png")
    words = ["pairs", *IRIS, "--labels", "components", "--out", out]
    assert main(["plot", str(runs / "fit"), *words]) == 0
    (mixture, _), options = heard["pairs"]
    expected = mixture.predict(options["rows"])
    np.testing.assert_array_equal(options["labels"], expected)
    assert set(expected.tolist()) == {0, 1}


def test_labels_that_predict_wrote_are_understood(runs, tmp_path, heard, capsys):
    mixture, file = str(runs / "fit" / "mixture.safetensors"), str(tmp_path / "labels.csv")
    assert main(["predict", mixture, *IRIS, "--out", file]) == 0
    out = str(tmp_path / "picture.png")
    assert main(["plot", mixture, "density", *IRIS, "--labels", file, "--out", out]) == 0
    _, options = heard["density"]
    expected = tg.load(mixture).predict(options["rows"])
    np.testing.assert_array_equal(options["labels"], expected)
    assert np.issubdtype(options["labels"].dtype, np.integer)


def test_names_come_from_the_line_or_from_the_file(folder, tmp_path, rows, heard, capsys):
    mixture, out = str(folder / "fitted" / "mixture.safetensors"), str(tmp_path / "picture.png")
    table = tmp_path / "rows.csv"
    np.savetxt(table, rows, delimiter=",", header="height,weight,age", comments="")
    words = ["plot", mixture, "pairs", "--data", str(table), "--out", out]
    assert main(words) == 0
    assert heard["pairs"][1]["names"] == ("height", "weight", "age")
    assert main([*words, "--names", "a, b, c", "--features", "c,a"]) == 0
    assert heard["pairs"][1]["names"] == ("a", "b", "c")
    assert heard["pairs"][1]["features"] == (2, 0)


def test_components_and_shape_are_those_of_the_images(runs, tmp_path, heard, capsys):
    out = str(tmp_path / "picture.png")
    words = ["patches", "--components", "1", "--shape", "1,4", "--out", out]
    assert main(["plot", str(runs / "fit"), *words]) == 0
    _, options = heard["eigenpatches"]
    assert options == {"shape": (1, 4), "components": 1}


def test_equal_pictures_make_equal_files(runs, tmp_path, capsys):
    for suffix in HEADS:
        files = [tmp_path / f"{name}{suffix}" for name in ("one", "other")]
        for file in files:
            assert main(["plot", str(runs / "fit"), "spectra", "--out", str(file)]) == 0
        assert files[0].read_bytes() == files[1].read_bytes()


ERRORS = [  # words after `plot FILE`, exit status, what the line says
    ("fit", [], 2, "out"),
    ("fit", ["cubism", "--out", "a.png"], 2, "'cubism' (choose from"),
    ("fit", ["--out", "a.gif"], 2, "written to .png or .svg or .pdf"),
    ("nowhere", ["--out", "a.png"], 1, "nowhere does not exist"),
    ("fit", ["criterion", "--out", "a.png"], 1, "holds no selection.json"),
    ("fit/result.json", ["pairs", "--out", "a.png"], 2, "pairs is drawn from a mixture file"),
    ("fit/mixture.safetensors", ["history", "--out", "a.png"], 2, "drawn from result.json"),
    ("fit", ["responsibilities", "--out", "a.png"], 2, "responsibilities are of rows: give --data"),
    ("fit", ["density", "--labels", "components", "--out", "a.png"], 2, "--labels are of rows"),
    ("fit", ["spectra", *IRIS, "--out", "a.png"], 2, "--data says nothing about spectra"),
    ("fit", ["history", "--features", "1", "--out", "a.png"], 2, "says nothing about history"),
    ("fit", ["patches", "--features", "1", "--out", "a.png"], 2, "says nothing about patches"),
    ("fit", ["density", "--components", "1", "--out", "a.png"], 2, "only patches, spectra"),
    ("fit", ["--features", "0,9", "--out", "a.png"], 2, "'9' is none; give numbers from 0 to 3"),
    ("fit", ["--features", "0,age", "--out", "a.png"], 2, "'age' is none"),
    ("fit", ["ellipses", "--features", "0", "--out", "a.png"], 1, "at least two features"),
    ("fit", ["ellipses", "--features", "0,1,2", "--out", "a.png"], 1, "numbers of two features"),
    ("fit", ["pairs", "--features", "1,1", "--out", "a.png"], 1, "not different ones"),
    ("fit", ["pairs", "--plane", "discriminant", "--out", "a.png"], 2, "only ellipses, density"),
    ("fit", ["--plane", "principal", "--features", "0,1", "--out", "a.png"], 2, "three or more"),
    ("fit", ["--names", "a,b", "--out", "a.png"], 2, "2 names for 4 features"),
    ("fit", ["patches", "--shape", "3,3", "--out", "a.png"], 2, "no image of 4 pixels"),
    ("fit", ["--size", "8", "--out", "a.png"], 2, "--size 8: give two numbers"),
    ("fit", ["--size", "8,-1", "--out", "a.png"], 2, "must be above 0"),
    ("fit", ["--size", "800,500", "--out", "a.png"], 2, "at most 100 inches"),
    ("fit", ["--dpi", "0", "--out", "a.png"], 2, "--dpi must be at least 1"),
    ("fit", ["pairs", "--data", "Bundled", "--data.name", "wine", "--out", "a.png"], 1,
     "13 features, the mixture has 4"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "words", "status", "said"), ERRORS)
def test_a_line_that_cannot_be_drawn_is_refused(
    file, words, status, said, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(runs / file), *words]) == status
    error = capsys.readouterr().err
    assert error.startswith("torchgmm: error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not list(tmp_path.iterdir())


def test_labels_must_be_one_for_each_row(runs, tmp_path, capsys):
    np.save(tmp_path / "labels.npy", np.zeros(149, np.int64))
    words = ["pairs", *IRIS, "--labels", str(tmp_path / "labels.npy")]
    assert main(["plot", str(runs / "fit"), *words, "--out", str(tmp_path / "a.png")]) == 1
    assert "shape (149,), --data has 150 rows: give one for each" in capsys.readouterr().err


def test_a_json_file_of_something_else_is_refused(tmp_path, capsys):
    for content, said in (("{}", "no result.json or selection.json"), ("{", "is no JSON")):
        (tmp_path / "a.json").write_text(content)
        words = ["plot", str(tmp_path / "a.json"), "--out", str(tmp_path / "a.png")]
        assert main(words) == 1
        assert said in capsys.readouterr().err


def test_the_plane_may_be_that_in_which_components_differ(runs, tmp_path, heard, capsys):
    words = ["plot", str(runs / "fit"), "ellipses", "--out", str(tmp_path / "a.png"), "--plane"]
    assert main([*words, "principal"]) == 0
    assert heard["ellipses"][1]["plane"] is None
    assert main([*words, "discriminant"]) == 0
    (mixture, ax), options = heard["ellipses"]
    expected = tg.discriminant(mixture).axes
    np.testing.assert_allclose(options["plane"].axes, expected, rtol=1e-12)
    assert ax.get_xlabel() == "1st axis"


def test_weights_of_the_rows_go_along(folder, tmp_path, rows, heard, capsys):
    np.save(tmp_path / "w.npy", np.arange(100) % 3.0)
    words = ["--data", str(folder / "rows.npy"), "--data.weights", str(tmp_path / "w.npy")]
    mixture, out = str(folder / "fitted" / "mixture.safetensors"), str(tmp_path / "a.png")
    assert main(["plot", mixture, "pairs", *words, "--out", out]) == 0
    _, options = heard["pairs"]
    np.testing.assert_array_equal(options["rows"], rows[np.arange(100) % 3 > 0])
    np.testing.assert_array_equal(options["weights"], [1, 2] * 33)


def test_principal_components_are_named(folder, tmp_path, heard, capsys):
    rows, out = str(folder / "rows.npy"), str(tmp_path / "fit")
    seen = ["--data", "Principal", "--data.rows", rows]
    words = [*seen, "--data.n_components", "2", *K2, "--picture", "none", "--out", out]
    assert main(["fit", *words]) == 0
    seen += ["--data.axes", f"{out}/pca.safetensors"]
    assert main(["plot", out, "ellipses", *seen, "--out", str(tmp_path / "a.png")]) == 0
    (_, ax), _ = heard["ellipses"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "principal component 1",
        "principal component 2",
    )
