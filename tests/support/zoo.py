"""Tabular models, exported by their libraries with default options, with the libraries' own predictions."""

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import catboost
import lightgbm
import numpy as np
import pandas as pd
import xgboost
from onnx import ModelProto
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import (
    BayesianRidge,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tests.support.classifiers import Array

ROWS, INTEGERS = make_classification(300, 6, n_informative=4, n_classes=3, random_state=0)
ROWS = ROWS.astype(np.float32)
STRINGS = np.array(["green", "blue", "red"])[INTEGERS]
TWO = np.array(["no", "yes"])[(INTEGERS > 0).astype(int)]
LABELS = (ROWS[:, :3] > 0).astype(int)
TARGET = make_regression(300, 6, random_state=0)[1]
TARGETS = np.stack([TARGET, -TARGET], axis=1)

Predict = Callable[[Array], Array]


class Exported(NamedTuple):
    """An exported model.

    Attributes:
        content: the ONNX file.
        predict: the library's own prediction function.
        names: class names in the order of their columns; ONNX files do not contain integer names.
        rows: the rows for the comparison, in the form that `predict` takes.
        data: the same rows in the form of a request.
    """

    content: bytes
    predict: Predict
    names: list[str]
    rows: Any = ROWS[:200]
    data: list[Any] = ROWS[:200].tolist()


def export_scikit_learn(
    estimator: Any, target: Array = STRINGS, method: str = "predict_proba", **options: Any
) -> Exported:
    """Return an estimator, trained on `target`, as skl2onnx exports it.

    Args:
        estimator: the untrained estimator.
        target: classes, labels or values of the rows.
        method: the estimator's method that computes the served predictions.
        options: options for skl2onnx.
    """
    estimator.fit(ROWS, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = to_onnx(estimator, ROWS[:1], options={id(estimator): options} if options else None)
    return Exported(made.SerializeToString(), getattr(estimator, method), _names(estimator))


def export_boosting(estimator: Any, target: Array, **options: Any) -> Exported:
    """Return an XGBoost or LightGBM estimator, trained on `target`, as onnxmltools exports it."""
    estimator.fit(ROWS, target)
    convert = convert_xgboost if isinstance(estimator, xgboost.XGBModel) else convert_lightgbm
    made = convert(estimator, initial_types=[("rows", FloatTensorType([None, 6]))], **options)
    method = estimator.predict_proba if hasattr(estimator, "predict_proba") else estimator.predict
    return Exported(made.SerializeToString(), method, _names(estimator))


def export_catboost(estimator: Any, target: Array, directory: Any) -> Exported:
    """Return a CatBoost estimator, trained on `target`, as it exports itself."""
    estimator.fit(ROWS, target)
    path = directory / "catboost.onnx"
    estimator.save_model(str(path), format="onnx")
    method = estimator.predict_proba if hasattr(estimator, "predict_proba") else estimator.predict
    return Exported(path.read_bytes(), method, _names(estimator))


def _names(estimator: Any) -> list[str]:
    classes = getattr(estimator, "classes_", [])
    return [str(name) for name in classes] if isinstance(classes, np.ndarray) else []


def label_file(names: list[str]) -> str:
    """Return the content of a label file with these names."""
    return json.dumps({str(index): name for index, name in enumerate(names)})


def export_columns(estimator: Any, target: Array, columns: Any) -> Exported:
    """Return a pipeline over a data frame with two numeric and two string columns, or with some of these columns."""
    frame = pd.DataFrame(ROWS[:, :2], columns=["first", "second"])
    frame["letter"] = np.array(["a", "b", "c"])[(ROWS[:, 2] > 0).astype(int) + (ROWS[:, 2] > 1)]
    frame["word"] = np.array(["left", "right"])[(ROWS[:, 3] > 0).astype(int)]
    numbers = (StandardScaler(), ["first", "second"])
    strings = (OneHotEncoder(handle_unknown="ignore"), ["letter", "word"])
    chosen = {"all": (numbers, strings), "numbers": (numbers,), "strings": (strings,)}[columns]
    frame = frame[[name for _, names in chosen for name in names]]
    model = make_pipeline(make_column_transformer(*chosen), estimator).fit(frame, target)
    made = to_onnx(model, frame[:1])
    method = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    rows = frame[:200]
    return Exported(made.SerializeToString(), method, _names(model), rows, rows.to_dict("records"))


def export_text_classifier(vectorizer: Any, shape: list[Any], options: Any) -> Exported:
    """Return a text classifier."""
    words = np.array(["red", "green", "blue", "the", "and", "dark"])
    strings = np.array([" ".join(words[row > 0]) for row in ROWS])
    model = make_pipeline(vectorizer, LogisticRegression()).fit(strings, STRINGS)
    made = to_onnx(model, initial_types=[("text", StringTensorType(shape))], options=options)
    rows = strings[:200]
    data = rows.tolist() if len(shape) == 1 else [[text] for text in rows.tolist()]
    return Exported(made.SerializeToString(), model.predict_proba, _names(model), rows, data)


_TREES: dict[str, Any] = {"n_estimators": 5, "random_state": 0}
_CATBOOST: dict[str, Any] = {"iterations": 5, "verbose": False, "allow_writing_files": False}
_LIGHTGBM: dict[str, Any] = {"n_estimators": 5, "verbose": -1}

# Served without any setting, and without a label file if the classes are strings.
CLASSIFIERS: Mapping[str, Callable[[Any], Exported]] = {
    "LogisticRegression": lambda _: export_scikit_learn(LogisticRegression()),
    "LogisticRegression without a ZipMap": lambda _: export_scikit_learn(LogisticRegression(), zipmap=False),
    "LogisticRegression of integers": lambda _: export_scikit_learn(LogisticRegression(), INTEGERS),
    "LogisticRegression of integers without a ZipMap": lambda _: export_scikit_learn(
        LogisticRegression(), INTEGERS, zipmap=False
    ),
    "LogisticRegression of two classes": lambda _: export_scikit_learn(LogisticRegression(), TWO),
    "a pipeline": lambda _: export_scikit_learn(make_pipeline(StandardScaler(), LogisticRegression()), zipmap=False),
    "RandomForestClassifier": lambda _: export_scikit_learn(RandomForestClassifier(**_TREES), zipmap=False),
    "DecisionTreeClassifier": lambda _: export_scikit_learn(DecisionTreeClassifier(max_depth=3), zipmap=False),
    "GradientBoostingClassifier": lambda _: export_scikit_learn(
        GradientBoostingClassifier(**_TREES), TWO, zipmap=False
    ),
    "AdaBoostClassifier": lambda _: export_scikit_learn(AdaBoostClassifier(**_TREES), zipmap=False),
    "GaussianNB": lambda _: export_scikit_learn(GaussianNB(), zipmap=False),
    "KNeighborsClassifier": lambda _: export_scikit_learn(KNeighborsClassifier(), zipmap=False),
    "MLPClassifier": lambda _: export_scikit_learn(MLPClassifier(tol=1, random_state=0), zipmap=False),
    "LinearDiscriminantAnalysis": lambda _: export_scikit_learn(LinearDiscriminantAnalysis(), zipmap=False),
    "CalibratedClassifierCV(SVC)": lambda _: export_scikit_learn(CalibratedClassifierCV(SVC()), zipmap=False),
    "OneVsRestClassifier": lambda _: export_scikit_learn(OneVsRestClassifier(LogisticRegression()), zipmap=False),
    "StackingClassifier": lambda _: export_scikit_learn(
        StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]), zipmap=False
    ),
    "a data frame": lambda _: export_columns(LogisticRegression(), STRINGS, "all"),
    "two numeric columns": lambda _: export_columns(LogisticRegression(), STRINGS, "numbers"),
    "two columns of strings": lambda _: export_columns(LogisticRegression(), STRINGS, "strings"),
    "strings": lambda _: export_text_classifier(TfidfVectorizer(), [None], {TfidfVectorizer: {"locale": "C"}}),
    "strings in lists of one": lambda _: export_text_classifier(
        CountVectorizer(), [None, 1], {CountVectorizer: {"locale": "C"}}
    ),
    "XGBClassifier": lambda _: export_boosting(xgboost.XGBClassifier(n_estimators=5), INTEGERS),
    "XGBClassifier of two classes": lambda _: export_boosting(xgboost.XGBClassifier(n_estimators=5), INTEGERS > 0),
    "LGBMClassifier": lambda _: export_boosting(lightgbm.LGBMClassifier(**_LIGHTGBM), STRINGS),
    "LGBMClassifier without a ZipMap": lambda _: export_boosting(
        lightgbm.LGBMClassifier(**_LIGHTGBM), STRINGS, zipmap=False
    ),
    "LGBMClassifier of two classes": lambda _: export_boosting(lightgbm.LGBMClassifier(**_LIGHTGBM), TWO),
    "CatBoostClassifier": lambda path: export_catboost(catboost.CatBoostClassifier(**_CATBOOST), STRINGS, path),
    "CatBoostClassifier of integers": lambda path: export_catboost(
        catboost.CatBoostClassifier(**_CATBOOST), INTEGERS, path
    ),
    "CatBoostClassifier of two classes": lambda path: export_catboost(
        catboost.CatBoostClassifier(**_CATBOOST), TWO, path
    ),
}


def regressor(estimator: Any, target: Array = TARGET, method: str = "predict") -> Callable[[Any], Exported]:
    """Return a function that trains and exports a regressor."""
    return lambda _: export_scikit_learn(estimator, target, method)


# Served without any setting or label file.
REGRESSORS: Mapping[str, Callable[[Any], Exported]] = {
    "LinearRegression": regressor(LinearRegression()),
    "LinearRegression of two targets": regressor(LinearRegression(), TARGETS),
    "Ridge": regressor(Ridge()),
    "Lasso": regressor(Lasso()),
    "BayesianRidge": regressor(BayesianRidge()),
    "SVR": regressor(SVR()),
    "a pipeline": regressor(make_pipeline(StandardScaler(), Ridge())),
    "DecisionTreeRegressor": regressor(DecisionTreeRegressor(max_depth=3)),
    "RandomForestRegressor": regressor(RandomForestRegressor(**_TREES)),
    "RandomForestRegressor of two targets": regressor(RandomForestRegressor(**_TREES), TARGETS),
    "ExtraTreesRegressor": regressor(ExtraTreesRegressor(**_TREES)),
    "GradientBoostingRegressor": regressor(GradientBoostingRegressor(**_TREES)),
    "OneClassSVM": regressor(OneClassSVM(), TARGET, "decision_function"),
    "a data frame": lambda _: export_columns(Ridge(), TARGET, "all"),
    "XGBRegressor": lambda _: export_boosting(xgboost.XGBRegressor(n_estimators=5), TARGET),
    "LGBMRegressor": lambda _: export_boosting(lightgbm.LGBMRegressor(**_LIGHTGBM), TARGET),
    "CatBoostRegressor": lambda path: export_catboost(catboost.CatBoostRegressor(**_CATBOOST), TARGET, path),
}

# Refused without a setting, and served with the first setting that the error message suggests.
WITH_SETTING: Mapping[str, tuple[Callable[[Any], Exported], str]] = {
    "KNeighborsRegressor": (regressor(KNeighborsRegressor()), "values"),
    "MLPRegressor": (regressor(MLPRegressor(tol=1e9, random_state=0)), "values"),
    "PoissonRegressor": (regressor(PoissonRegressor(), abs(TARGET)), "values"),
    "AdaBoostRegressor": (regressor(AdaBoostRegressor(**_TREES)), "values"),
    "BaggingRegressor": (regressor(BaggingRegressor(**_TREES)), "values"),
    "VotingRegressor": (regressor(VotingRegressor([("a", Ridge()), ("b", Lasso())])), "values"),
    "MultiOutputRegressor": (regressor(MultiOutputRegressor(Ridge()), TARGETS), "values"),
    "PCA": (regressor(PCA(2), method="transform"), "values"),
    "KMeans": (regressor(KMeans(3, random_state=0), method="transform"), "values:scores"),
    "LocalOutlierFactor": (
        regressor(LocalOutlierFactor(novelty=True), method="decision_function"), "values:scores",
    ),
    "LGBMRegressor of counts": (
        lambda _: export_boosting(lightgbm.LGBMRegressor(objective="poisson", **_LIGHTGBM), abs(TARGET)), "values",
    ),
    "OneVsRestClassifier of independent labels": (
        lambda _: export_scikit_learn(OneVsRestClassifier(LogisticRegression()), LABELS, zipmap=False), "sigmoid",
    ),
}  # fmt: skip

Reexport = tuple[Callable[[Any], Exported], str, Callable[[Any], Exported], str]


def without_probabilities(estimator: Any, target: Array = STRINGS, **options: Any) -> Reexport:
    """Return the exports of a classifier without predict_proba, alone and wrapped in CalibratedClassifierCV."""
    return (
        lambda _: export_scikit_learn(estimator, target, "predict", **options),
        "fit sklearn.calibration.CalibratedClassifierCV(classifier)",
        lambda _: export_scikit_learn(CalibratedClassifierCV(estimator), target, **options),
        "",
    )


def _only_label(estimator: Any) -> Exported:
    exported = export_scikit_learn(estimator, zipmap=False)
    made = ModelProto.FromString(exported.content)
    del made.graph.output[1:]
    return exported._replace(content=made.SerializeToString())


# Refused, and served after the change that the error message suggests: the phrase in the message and the new export.
ANOTHER_EXPORT: Mapping[str, Reexport] = {
    "LinearSVC": without_probabilities(LinearSVC()),
    "SVC": without_probabilities(SVC()),
    "SVC without a ZipMap": without_probabilities(SVC(), zipmap=False),
    "SVC of two classes": without_probabilities(SVC(), TWO, zipmap=False),
    "RidgeClassifier": without_probabilities(RidgeClassifier()),
    "SGDClassifier": without_probabilities(SGDClassifier(random_state=0)),
    "Perceptron": without_probabilities(Perceptron(), zipmap=False),
    "one output for each class": (
        lambda _: export_scikit_learn(LogisticRegression(), zipmap="columns"),
        'options={"zipmap": False}',
        lambda _: export_scikit_learn(LogisticRegression(), zipmap=False),
        "",
    ),
    "a sequence of tensors": (
        lambda _: export_scikit_learn(MultiOutputClassifier(LogisticRegression()), LABELS),
        "OneVsRestClassifier instead of MultiOutputClassifier; then set MODEL_OUTPUT=sigmoid",
        lambda _: export_scikit_learn(OneVsRestClassifier(LogisticRegression()), LABELS),
        "sigmoid",
    ),
    "only the label": (
        lambda _: _only_label(LogisticRegression()),
        "export the class probabilities too",
        lambda _: export_scikit_learn(LogisticRegression()),
        "",
    ),
}  # fmt: skip
