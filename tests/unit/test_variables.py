"""Declared variables: what a caller must give, and what a preview shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.variables import check_declaration, check_variables, parse_declared, sample
from app.errors import FieldError, InvalidFields

DECLARED = parse_declared(
    {
        "order_id": {"example": "A-1"},
        "note": {"required": False, "description": "Printed under the order."},
        "total": None,
    }
)


def fields(errors):
    return [error.field for error in errors]


def test_a_list_of_names_declares_required_variables():
    assert parse_declared(["a", "b"]) == {
        "a": {"required": True, "description": ""},
        "b": {"required": True, "description": ""},
    }


def test_the_normal_form_is_stable():
    assert parse_declared(DECLARED) == DECLARED


def test_an_example_may_be_null_and_is_kept():
    assert parse_declared({"a": {"example": None}})["a"]["example"] is None


def test_every_missing_and_every_unknown_variable_is_named():
    errors = check_variables(DECLARED, {"order_id": "A-1", "ttoal": "9"})
    assert errors == [
        FieldError("variables.total", "missing; the template needs it"),
        FieldError("variables.ttoal", "unknown; declared are note, order_id, total"),
    ]


def test_optional_variables_may_be_left_out_or_given():
    assert check_variables(DECLARED, {"order_id": "A-1", "total": "9"}) == []
    assert check_variables(DECLARED, {"order_id": "A-1", "total": "9", "note": "x"}) == []


def test_nothing_declared_means_nothing_accepted():
    assert check_variables({}, {"a": 1}) == [FieldError("variables.a", "unknown; declared are none")]


def test_a_flood_of_unknown_names_is_answered_briefly():
    errors = check_variables({}, {f"{'x' * 1000}{n}": 1 for n in range(1000)})
    assert len(errors) == 20
    assert max(len(error.field) for error in errors) < 100


def test_names_the_template_reads_must_be_declared():
    errors = check_declaration(DECLARED, frozenset({"order_id", "surname"}))
    assert errors == [FieldError("variables.surname", "not declared, but the template reads it")]


def test_the_sample_shows_examples_and_names_what_has_none():
    assert sample(DECLARED) == {"order_id": "A-1", "total": "[total]"}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ("order_id", "variables"),
        ([1], "variables"),
        (None, "variables"),
        (["1st"], "variables.1st"),
        (["_private"], "variables._private"),
        (["a-b"], "variables.a-b"),
        (["a\n"], "variables.a\n"),
        (["loop"], "variables.loop"),
        ({"a": "text"}, "variables.a"),
        ({"a": {"requird": True}}, "variables.a.requird"),
        ({"a": {"required": "yes"}}, "variables.a.required"),
        ({"a": {"description": 3}}, "variables.a.description"),
        ([f"v{n}" for n in range(101)], "variables"),
    ],
)
def test_a_wrong_declaration_is_refused_by_the_key_that_is_wrong(raw, field):
    with pytest.raises(InvalidFields) as caught:
        parse_declared(raw)
    assert fields(caught.value.errors) == [field]


NAMES = st.from_regex(r"v[a-z0-9_]{0,10}", fullmatch=True)
SPECS = st.fixed_dictionaries({}, optional={"required": st.booleans(), "example": st.integers()})


@given(st.dictionaries(NAMES, SPECS, max_size=10))
def test_a_sample_always_satisfies_its_declaration(raw):
    declared = parse_declared(raw)
    assert check_variables(declared, sample(declared)) == []
