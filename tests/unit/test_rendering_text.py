"""The text part derived from the HTML: readable, over the same variables, free of markup."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import TemplateRenderError
from app.rendering.engine import compile_template, render
from app.rendering.text_alternative import derive_text
from app.rendering.types import RenderLimits, TemplateSource

LIMITS = RenderLimits()


def text_of(html, **variables):
    compiled = compile_template(TemplateSource("k", "s", html, None), LIMITS)
    return render(compiled, variables, LIMITS).text


def test_headings_paragraphs_and_breaks_become_lines():
    assert derive_text("<h1>Hi {{ a }}</h1><p>One<br>two</p><p>Three</p>") == "Hi {{ a }}\n\nOne\ntwo\n\nThree\n"


def test_lists_keep_their_bullets_inside_a_loop():
    html = "<p>For you:</p><ul>\n{% for i in items %}\n<li>{{ i }}</li>\n{% endfor %}\n</ul><p>Bye</p>"
    assert text_of(html, items=["a", "b"]) == "For you:\n\n* a\n* b\n\nBye"
    assert text_of(html, items=[]) == "For you:\n\n\nBye"


def test_a_link_names_its_address_unless_its_words_are_the_address():
    assert derive_text('<a href="{{ url }}">Track it</a>') == "Track it ({{ url }})\n"
    assert derive_text('<a href="{{ url }}">{{ url }}</a>') == "{{ url }}\n"
    assert derive_text('<a href="{{ url }}"><img alt="Shop" src="x"></a>') == "Shop ({{ url }})\n"
    assert derive_text('<a href="{{ url }}"></a>') == "{{ url }}\n"
    assert derive_text('<a href="mailto:a@b.example">a@b.example</a>') == "a@b.example\n"


def test_an_address_with_a_query_is_whole():
    html = '<a href="https://a.example/?x=1&amp;y={{ y|urlencode }}">go</a>'
    assert text_of(html, y="a b&c") == "go (https://a.example/?x=1&y=a%20b%26c)"


def test_entities_are_characters_and_values_stay_as_they_are():
    assert text_of("<p>Fish &amp; chips&nbsp;&lt;3 {{ v }}</p>", v="&amp; <b>") == "Fish & chips <3 &amp; <b>"


def test_tables_become_lines_with_a_gap_between_cells():
    html = (
        "<table><tr><th>What</th><th>Price</th></tr>"
        "{% for i in items %}<tr><td>{{ i.a }}</td><td>{{ i.b }}</td></tr>{% endfor %}</table>"
    )
    assert text_of(html, items=[{"a": "Tea", "b": "3"}, {"a": "Cake", "b": "4"}]) == "What  Price\nTea  3\nCake  4\n"


def test_what_is_hidden_stays_hidden():
    html = (
        "<html><head><title>{{ t }}</title><style>p {color: red}</style></head><body>"
        '<div style="display:none">preview {{ p }}</div><!-- {{ c }} --><script>x()</script>'
        "{# note #}<p>Seen</p></body>"
    )
    assert derive_text(html) == "Seen\n"


def test_conditions_in_attributes_vanish_in_pairs():
    href = "{% if u is defined %}{{ u }}{% else %}https://a.example{% endif %}"
    html = '<a {% if big %}class="big"{% endif %} href="' + href + '">go</a>'
    assert text_of(html, big=False) == "go (https://a.example)"
    assert text_of(html, big=True, u="https://b.example") == "go (https://b.example)"


def test_conditions_between_paragraphs_leave_no_hole():
    html = "<p>A</p>{% if x is defined %}<p>{{ x }}</p>{% endif %} {% if y %}<p>Y</p>{% endif %}<p>B</p>"
    assert text_of(html, x="X", y=False) == "A\n\nX\n\nB"
    assert text_of(html, y=True) == "A\n\nY\n\nB"
    assert text_of(html, y=False) == "A\n\nB"


@pytest.mark.parametrize(
    "html",
    [
        "&#123;&#123; x }}",
        "&#123;% if %}",
        "&lbrace;# x #}",
        "{% raw %}{{ x }}{% endraw %}",
        "a { b",
        "{&#123; x }}",
    ],
)
def test_no_text_turns_into_template(html):
    assert text_of(f"<p>{html}</p>")


def test_raw_text_reads_as_it_was_written():
    assert text_of("<p>{% raw %}{{ x }} {% if %}{% endraw %}</p>") == "{{ x }} {% if %}"


def test_a_string_that_looks_like_an_end_is_none():
    assert text_of("<p>{{ '}}' }}{{ \"%}\" }}</p>") == "}}%}"


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<div style='display:none'>{% if a %}</div>x{% endif %}", "Encountered unknown tag 'endif'"),
        ("<p style='display:none'>{% set x = 1 %}</p><p>{{ x }}</p>", "x would be undefined"),
        ("<p>{{ a </p>", "line 1"),
        ("<p>\U000f0000</p>", "private use area"),
        ("<div>" * 100_000, "cannot be derived"),
    ],
)
def test_what_cannot_be_derived_is_said_so(html, reason):
    with pytest.raises(TemplateRenderError) as caught:
        derive_text(html)
    [error] = caught.value.errors
    assert error.field == "text"
    assert reason in error.message


@pytest.mark.parametrize(
    "html",
    [
        "",
        " ",
        "<p></p>",
        "plain {{ a }}",
        "<p>{{ a }}",
        "</p>{{ a }}",
        "<<>>",
        "<?xml version='1.0' encoding='utf-8'?><p>x</p>",
    ],
)
def test_untidy_html_is_still_html(html):
    text_of(html, a="x")


PLAIN_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]))
PIECES = st.sampled_from(
    ["<p>", "</p>", "<div>", "</div>", "<ul>", "<li>", "</ul>", "<table>", "<tr>", "<td>", "</table>", "<br>"]
    + ["<a href='{{ a }}'>", "</a>", "{{ a }}", "{{ b|e }}", "{{ i }}", " ", "\n"]
    + ["{% if c %}", "{% endif %}", "{% for i in d %}", "{% endfor %}"]
    + ["&amp;", "&#123;", "{", "}", "%", "#", "word", "é", "&nbsp;", "{# c #}", "{% raw %}{{{% endraw %}"]
)  # fmt: skip
VALUES = st.fixed_dictionaries(
    {"a": st.text(), "b": st.integers(), "c": st.booleans(), "d": st.lists(st.text(max_size=5), max_size=3)}
)


@given(st.lists(PIECES, max_size=20).map("".join), VALUES)
def test_whatever_the_html_renders_with_the_text_renders_with(html, variables):
    source = TemplateSource("k", "s", html, "given")
    try:
        render(compile_template(source, LIMITS), variables, LIMITS)
        derived = derive_text(html)
    except TemplateRenderError:
        return
    both = compile_template(TemplateSource("k", "s", html, derived), LIMITS)
    assert "&amp;" not in render(both, {**variables, "a": "x", "d": []}, LIMITS).text


@given(PLAIN_TEXT, PLAIN_TEXT)
def test_a_value_arrives_in_the_derived_text_unchanged(name, url):
    rendered = text_of('<p>Hi {{ name }}!</p><a href="{{ url }}">go</a>', name=name, url=url)
    assert rendered == f"Hi {name}!\n\ngo ({url})"
