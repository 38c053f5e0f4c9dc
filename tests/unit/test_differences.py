"""Where two JSON documents differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.differences import differing_paths


@pytest.mark.parametrize(
    ("a", "b", "paths"),
    [
        ({}, {}, []),
        ({"x": 1}, {"x": 2}, ["x"]),
        ({"x": 1}, {}, ["x"]),
        ({}, {"x": None}, ["x"]),
        ({"v": {"a": 1, "b": 2}}, {"v": {"b": 3, "c": 4}}, ["v.a", "v.b", "v.c"]),
        ({"c": ["email"]}, {"c": ["email", "sms"]}, ["c[1]"]),
        ({"c": [{"p": 1}, 2]}, {"c": [{"p": 2}, 2]}, ["c[0].p"]),
        ({"x": 1}, {"x": True}, ["x"]),
        ({"x": 1}, {"x": 1.0}, ["x"]),
        ({"x": {}}, {"x": []}, ["x"]),
        (1, 2, [""]),
    ],
)
def test_each_difference_has_its_path(a, b, paths):
    assert differing_paths(a, b) == paths
    assert differing_paths(b, a) == paths


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_a_document_does_not_differ_from_itself(document):
    assert differing_paths(document, document) == []
