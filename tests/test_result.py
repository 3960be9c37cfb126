from __future__ import annotations

import copy
import json
import operator
import pickle
import warnings

import pytest

from fidfast.result import FidfastWarning, FIDResult

FIELDS = {
    "raw": -1e-12,
    "num_real": 10,
    "num_generated": 12,
    "preset": "pytorch-fid",
    "feature_dim": 64,
    "precision": "fp32",
    "device": "cpu",
    "route": "eigvalsh",
    "error_bound": 1e-9,
    "duplicates": {"real": {"num_images": 10, "num_unique": 9, "largest_multiplicity": 2}, "shared": 1},
    "kernels": {"resize_normalize": "cpu scalar"},
    "seconds": {"network": 1.5},
    "notes": ("a note",),
    "skipped": (("a.png", "truncated"),),
    "weights": "0" * 64,
    "standard_error": 0.25,
    "corrected": 2.5,
    "floor": 0.5,
    "num_effective": 11,
}


@pytest.fixture
def result() -> FIDResult:
    return FIDResult(3.14159, **FIELDS)


def test_is_a_number(result):
    assert float(result) == result == result.fid == 3.14159
    assert f"{result:.2f}" == "3.14"
    assert result < 4 and result > 3 and sorted([4.0, result, 3.0])[1] is result
    assert min(result, 19.0) is result
    assert result - 3 == pytest.approx(0.14159)
    assert json.loads(json.dumps({"fid": result})) == {"fid": 3.14159}
    assert str(result) == "3.14159"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies_keep_everything(result, duplicate):
    other = duplicate(result)
    assert type(other) is FIDResult
    assert other.to_dict() == result.to_dict()


def test_cannot_be_changed(result):
    with pytest.raises(AttributeError, match="raw"):
        result.raw = 0.0
    with pytest.raises(AttributeError, match="num_real"):
        del result.num_real
    with pytest.raises(AttributeError):
        result.new_name = 1


def test_to_dict_is_json_and_has_the_key_fid(result):
    fields = json.loads(json.dumps(result.to_dict()))
    assert fields["fid"] == 3.14159
    assert set(fields) == {"fid", *FIELDS}
    assert fields["skipped"] == [["a.png", "truncated"]]


def test_a_field_too_few_or_too_many_is_an_error():
    with pytest.raises(TypeError, match="raw"):
        FIDResult(1.0, **{key: value for key, value in FIELDS.items() if key != "raw"})
    with pytest.raises(TypeError, match="surprise"):
        FIDResult(1.0, surprise=1, **FIELDS)


def test_repr_names_what_makes_the_number(result):
    text = repr(result)
    for part in ("3.14159", "num_real=10", "num_generated=12", "pytorch-fid", "feature_dim=64", "fp32 on cpu"):
        assert part in text


def test_numbers_of_the_error_are_none_unless_given():
    result = FIDResult(1.0, **{name: FIELDS[name] for name in FIELDS if name not in FIDResult._OPTIONAL})
    assert result.standard_error is result.corrected is result.floor is result.num_effective is None


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge, lambda a, b: sorted([a, b])])
def test_ordering_results_of_different_n_warns_and_answers(result, compare):
    small = FIDResult(9.0, **{**FIELDS, "num_generated": 2000})
    with pytest.warns(FidfastWarning, match="of 2000 images|one of 2000"):
        assert compare(result, small) == compare(3.14159, 9.0)


def test_ordering_results_of_equal_n_or_plain_numbers_does_not_warn(result):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result < FIDResult(9.0, **FIELDS)
        assert result < 9.0 and result == 3.14159
