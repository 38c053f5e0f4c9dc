"""What a template may do, and what is said when it does something else. Limits of time are tested apart."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import FieldError, TemplateRenderError
from app.rendering.engine import check_template, compile_template, render
from app.rendering.types import RenderLimits, TemplateSource, content_hash

LIMITS = RenderLimits()
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def template(subject="s", html=None, text="t"):
    return TemplateSource("tenant/template/1", subject, html, text)


def rendered(source, limits=LIMITS, **variables):
    return render(compile_template(source, limits), variables, limits)


def text_of(text, **variables):
    return rendered(template(text=text), **variables).text


def html_of(html, **variables):
    return rendered(template(html=html), **variables).html


def refusal(source, limits=LIMITS, **variables):
    with pytest.raises(TemplateRenderError) as caught:
        rendered(source, limits, **variables)
    return caught.value.errors


def refused(text, **variables):
    [error] = refusal(template(text=text), **variables)
    assert error.field == "text"
    return error.message


# -- one context, three parts --------------------------------------------------------------------------------


def test_one_context_feeds_all_parts_and_each_is_escaped_as_it_must_be():
    result = rendered(template("Hi {{ a }}", "<p>{{ a }}</p>", "Hi {{ a }}"), a="<b> & 'c'")
    assert result.subject == "Hi <b> & 'c'"
    assert result.html == "<p>&lt;b&gt; &amp; &#39;c&#39;</p>"
    assert result.text == "Hi <b> & 'c'"


def test_escaping_filters_do_nothing_where_there_is_nothing_to_escape():
    assert text_of("{{ a|e }}{{ a|escape }}{{ a|forceescape }}{{ a|safe }}", a="<") == "<<<<"


def test_a_template_without_text_gets_one():
    assert rendered(template(html="<h1>Hi {{ a }}</h1>", text=None), a="<Ada>").text == "Hi <Ada>"


def test_a_template_without_html_has_none():
    assert rendered(template()).html is None


def test_a_template_needs_a_body():
    assert refusal(template(text=None)) == (FieldError("text", "missing; a template needs html, text or both"),)


@given(PLAIN)
def test_no_value_ever_opens_a_tag(value):
    try:
        html = html_of("<p>{{ v }}{{ v|string|upper }}{% for x in [v] %}{{ x }}{% endfor %}</p>", v=value)
    except TemplateRenderError:
        return
    assert html.count("<") == 2


@given(st.text())
def test_a_subject_is_one_line_or_an_error(value):
    try:
        subject = rendered(template("a{{ v }}b"), v=value).subject
    except TemplateRenderError:
        assert len(value) > 990 or not value.isprintable()
    else:
        assert subject == f"a{value}b"
        assert len(subject.splitlines()) == 1


# -- the subject ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\0"])
def test_a_line_break_in_the_subject_is_refused(line_break):
    [error] = refusal(template("Order {{ id }}"), id=f"1{line_break}Bcc: all@example.com")
    assert error.field == "subject"
    assert "Bcc" not in error.message


def test_the_subject_is_trimmed_and_then_limited():
    assert rendered(template("  {{ a }}\n"), a="x" * 998).subject == "x" * 998
    assert refusal(template("{{ a }}"), a="x" * 999) == (FieldError("subject", "longer than 998 characters"),)


def test_a_subject_in_any_script_is_fine():
    assert rendered(template("{{ a }}"), a="注文 №1 👩‍👩‍👧 é").subject == "注文 №1 👩‍👩‍👧 é"


# -- what is missing -----------------------------------------------------------------------------------------


def test_every_part_with_a_missing_variable_is_named_with_its_line():
    errors = refusal(template("{{ a }}", "<p>\n{{ b }}</p>", "\n\n{{ c }}"))
    assert errors == (
        FieldError("subject", "line 1: 'a' is undefined"),
        FieldError("html", "line 2: 'b' is undefined"),
        FieldError("text", "line 3: 'c' is undefined"),
    )


@pytest.mark.parametrize(
    "use",
    [
        "{{ x }}",
        "{{ x.y }}",
        "{{ x['y'] }}",
        "{% if x %}{% endif %}",
        "{% for i in x %}{% endfor %}",
        "{{ x|upper }}",
    ],
)
def test_a_missing_variable_never_renders_as_blank(use):
    assert refused(use) == "line 1: 'x' is undefined"


@pytest.mark.parametrize("use", ["{{ d.nope }}", "{{ d['nope'] }}", "{{ l[7] }}", "{{ l.nope }}", "{{ s.nope }}"])
def test_a_missing_entry_never_renders_as_blank(use):
    assert "has no such entry" in refused(use, d={}, l=[1], s="text")


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_what_has_no_text_is_not_printed(value):
    assert "cannot be printed" in refused("{{ v }}", v=value)


def test_default_stands_in_for_the_missing_and_for_null():
    assert text_of("{{ a|default('-') }}{{ b.c|d('-') }}{{ n|default('-') }}", b={}, n=None) == "---"
    assert text_of("{% if a is defined %}a{% else %}no a{% endif %}") == "no a"


@pytest.mark.parametrize(
    "use",
    [
        "{{ d[v] }}",
        "{{ d[v].x }}",
        "{{ l[v] }}",
        "{{ v + 1 }}",
        "{{ v * v }}",
        "{{ v % 1 }}",
        "{{ v ** 2 }}",
        "{{ -v }}",
        "{{ v() }}",
        "{{ v|round }}",
        "{{ v|money('EUR') }}",
        "{{ 1|money(v) }}",
        "{{ 1|money('EUR', v) }}",
        "{{ v|date }}",
        "{{ '2026-01-01T00:00'|date('short', v) }}",
        "{{ '2026-01-01T00:00'|date('short', 'en', v) }}",
        "{{ range(v) }}",
        "{{ v|sum }}",
        "{{ v|dictsort }}",
        "{{ d|tojson(indent=v)|int(base=v) + v }}",
    ],
)
def test_a_message_never_holds_a_value(use):
    message = refused(use, v="4111-1111", d={}, l=[])
    assert "4111" not in message
    assert len(message) <= 300


# -- the language --------------------------------------------------------------------------------------------


def test_an_entry_of_a_mapping_comes_before_its_methods():
    assert text_of("{{ order.items[0] }} {{ order.keys }}", order={"items": ["x"], "keys": "k"}) == "x k"
    assert text_of("{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}", d={"a": 1, "b": 2}) == "a1b2"


def test_conditionals_loops_and_macros_work():
    source = (
        "{% macro price(x) %}[{{ x }}]{% endmacro %}"
        "{% for i in items %}{{ loop.index }}/{{ loop.length }} {{ price(i) }}"
        "{% if not loop.last %}, {% endif %}"
        "{% else %}none{% endfor %}"
    )
    assert text_of(source, items=["a", "b"]) == "1/2 [a], 2/2 [b]"
    assert text_of(source, items=[]) == "none"


def test_a_line_of_only_tags_leaves_no_blank_line_and_other_lines_keep_their_end():
    source = "a {% if x %}b{% endif %}\n{# why #}\n  {% for i in [1, 2] %}\n- {{ i }}\n  {% endfor %}\nend\n"
    assert text_of(source, x=True) == "a b\n- 1\n- 2\nend"


@pytest.mark.parametrize(
    "tag", ["{% include 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% extends 'x' %}"]
)
def test_a_template_stands_alone(tag):
    assert "a template stands alone" in refused(tag)


def test_autoescaping_cannot_be_switched_off():
    [error] = refusal(template(html="{% autoescape false %}{{ a }}{% endautoescape %}"), a="<")
    assert error.field == "html"


@pytest.mark.parametrize(
    "name",
    [
        "map",
        "attr",
        "select",
        "selectattr",
        "reject",
        "groupby",
        "format",
        "pprint",
        "random",
        "xmlattr",
        "batch",
        "center",
        "urlize",
    ],
)
def test_filters_that_reach_further_are_not_there(name):
    assert refused("{{ 'a'|" + name + " }}") == f"line 1: No filter named '{name}'."


@pytest.mark.parametrize("name", ["lipsum", "cycler", "joiner", "namespace", "dict"])
def test_globals_that_reach_further_are_not_there(name):
    assert refused("{{ " + name + "() }}") == f"line 1: '{name}' is undefined"


def test_a_syntax_error_names_the_part_and_the_line():
    [error] = refusal(template(html="<p>\n{{ a b }}</p>"))
    assert error.field == "html"
    assert error.message.startswith("line 2: expected token")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''|attr('__class__') }}",
        "{{ d.__class__ }}",
        "{{ d['__class__'] }}",
        "{{ d.get.__self__ }}",
        "{{ d.items.__func__ }}",
        "{{ d.update({'x': 1}) }}",
        "{{ d.pop('a') }}",
        "{{ d.clear() }}",
        "{{ l.append(1) }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{0.__class__.__init__.__globals__}'.format_map(d) }}",
        "{{ s.format(self) }}",
        "{% set f = s.format %}{{ f(1) }}",
        "{{ '%s' % self }}",
        "{{ '%(a)s' % d }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ namespace.__init__ }}",
        "{{ self }}",
        "{{ self.__init__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ range.__class__ }}",
        "{{ range(1).__class__ }}",
        "{{ loop }}",
        "{% for i in [1] %}{{ loop.__init__ }}{% endfor %}",
        "{% for i in [1] %}{{ loop._iterator.gi_frame }}{% endfor %}",
        "{% for i in [1] %}{{ loop.cycle.__globals__ }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m._environment }}",
        "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
        "{% macro m() %}{{ caller.__init__ }}{% endmacro %}{% call m() %}{% endcall %}",
        "{% macro m() %}{{ varargs.__class__ }}{% endmacro %}{{ m(1) }}",
        "{{ missing.__class__ }}",
        "{{ (missing|default(d)).__class__ }}",
        "{{ [d]|sum(attribute='__class__') }}",
        "{{ [d]|sort(attribute='__class__.__name__') }}",
        "{{ [d]|join(',', attribute='__class__') }}",
        "{{ [s, s]|max(attribute='__class__') }}",
        "{{ [s]|unique(attribute='__class__')|list }}",
        "{{ d|tojson(indent=d.__class__) }}",
        "{{ s.encode() }}",
        "{{ s.split.__self__ }}",
        "{{ url_for.__globals__ }}",
        "{{ request.application.__globals__ }}",
        "{{ config }}",
        "{{ get_flashed_messages.__globals__ }}",
        "{{ ()|string.__class__ }}",
        "{{ true.__class__ }}",
        "{{ 1.0.__class__ }}",
        "{{ 1.__add__(1) }}",
        "{{ none.__class__ }}",
    ],
)
def test_no_way_out_of_the_data(attack):
    variables = {"d": {"a": 1}, "l": [1], "s": "{0.__class__}"}
    for source in (template(text=attack), template(attack), template(html=attack)):
        assert refusal(source, **variables)
    assert variables == {"d": {"a": 1}, "l": [1], "s": "{0.__class__}"}


def test_a_template_in_a_value_is_not_a_template():
    assert text_of("{{ v }}", v="{{ 7 * 7 }}{% raw %}") == "{{ 7 * 7 }}{% raw %}"


# -- limits that need no clock -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 10**10**10 }}",
        "{{ 2**(10**9) }}",
        "{{ (2**200) * (2**200) }}",
        "{{ [0] * 10**9 }}",
        "{{ 10**9 * [0] }}",
        "{{ range(10**9)|list }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 5|round(-1000000000) }}",
        "{{ '1e999999'|money('EUR') }}",
        "{{ ('9' * 999)|money('EUR') }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "not " * 5000 + "1 }}",
        "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    ],
)
def test_what_would_run_in_c_for_minutes_is_refused_at_once(bomb):
    assert refused(bomb)


def test_output_stops_at_the_limit():
    loops = "{% for i in range(1000) %}{% for j in range(1000) %}xxxxxxxx{% endfor %}{% endfor %}"
    assert refused(loops) == "longer than 524288 characters"
    assert len(text_of("{{ a }}", a="x" * 524288)) == 524288


def test_source_stops_at_the_limit():
    limits = replace(LIMITS, source_chars=10)
    errors = refusal(template("s", "x" * 11, "y" * 11), limits)
    assert errors[0] == FieldError("html", "the source is longer than 10 characters")
    assert refusal(template("s" * 999))[0].field == "subject"


@pytest.mark.parametrize("unsendable", ["\ud800", "\0"])
def test_what_cannot_be_sent_is_refused_by_part(unsendable):
    [error] = refusal(template("s", "<p>fine</p>", "{{ v }}"), v=unsendable)
    assert error == FieldError("text", "holds a character that cannot be sent")
    assert refusal(template(html="{{ '\\ud800' }}"))[0].field == "html"


# -- checking and hashing ------------------------------------------------------------------------------------


def test_a_check_finds_the_names_read_in_all_parts():
    check = check_template(
        template("{{ a }}", "{% set x = b %}{{ x }}{% for i in range(c) %}{{ i }}{% endfor %}", "{{ d.e[f] }}"),
        LIMITS,
    )
    assert check.errors == ()
    assert check.variables == {"a", "b", "c", "d", "f"}
    assert check.text == "{{ d.e[f] }}"


def test_a_check_shows_the_derived_text():
    assert check_template(template(html="<p>{{ a }}</p>", text=None), LIMITS).text == "{{ a }}\n"


def test_a_check_names_every_part_that_does_not_compile():
    check = check_template(template("{{ ", "{% if %}", "{{ }"), LIMITS)
    assert [error.field for error in check.errors] == ["subject", "html"]


def test_the_hash_is_what_its_docstring_says():
    expected = hashlib.sha256(
        (1).to_bytes(8, "big") + b"s" + b"\xff" * 8 + (2).to_bytes(8, "big") + "é".encode()
    ).digest()
    assert content_hash("s", None, "é") == expected
    assert rendered(template("s", None, "é")).content_hash == expected


@given(
    st.tuples(st.text(), st.none() | st.text(), st.text()),
    st.tuples(st.text(), st.none() | st.text(), st.text()),
)
def test_different_messages_have_different_hashes(one, other):
    assert (content_hash(*one) == content_hash(*other)) == (one == other)


# -- helpers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'1290.5'|money('EUR')", "€1,290.50"),
        ("'1290.5'|money('EUR', 'de-DE')", "1.290,50\xa0€"),
        ("1290|money('JPY', 'ja_JP')", "￥1,290"),
        ("0.1|money('USD')", "$0.10"),
        ("'-3'|money('USD', 'en-US')", "-$3.00"),
        ("'1.005'|money('KWD', 'en')", "KWD1.005"),
        ("'2026-03-14'|date", "Mar 14, 2026"),
        ("'2026-03-14'|date('long', 'de')", "14. März 2026"),
        ("'2026-03-14T23:30:00Z'|date('full', 'en-GB', 'Asia/Tokyo')", "Sunday, 15 March 2026"),
        ("'2026-03-14T23:30:00Z'|date('HH:mm', 'en', 'Europe/Berlin')", "00:30"),
        ("'2026-03-14T23:30:00'|date('HH:mm')", "23:30"),
        ("'2026-03-14'|date('EEE d MMM')", "Sat 14 Mar"),
        ("2.345|round(1)", "2.3"),
    ],
)
def test_helpers(expression, expected):
    assert text_of("{{ " + expression + " }}") == expected


@pytest.mark.parametrize(
    "expression",
    [
        "'x'|money('EUR')",
        "true|money('EUR')",
        "'nan'|money('EUR')",
        "'inf'|money('EUR')",
        "[]|money('EUR')",
        "1|money('euro')",
        "1|money(1)",
        "1|money('EUR', 'xx_YY')",
        "1|money('EUR', '../../etc/passwd')",
        "'yesterday'|date",
        "1|date",
        "'2026-01-01'|date('x' * 65)",
        "'2026-01-01T00:00'|date('short', 'en', 'Mars/Olympus')",
        "'2026-01-01T00:00'|date('short', 'en', '../../etc/passwd')",
        "'0001-01-01T00:00+23:59'|date",
    ],
)
def test_helpers_refuse_what_they_cannot_show(expression):
    assert refused("{{ " + expression + " }}").startswith("line 1: ")
