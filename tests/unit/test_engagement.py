"""Pixel and tracked links: put in where they belong, and nothing else touched."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.engagement import instrument, target_of

PIXEL_URL = "https://n.example/o/1.a.b.gif"
PIXEL = f'<img src="{PIXEL_URL}" width="1" height="1" alt="" style="display:block;width:1px;height:1px;border:0">'


def tracked(html, *, opens=False, clicks=True):
    """The document, and the targets its links were led away from."""
    targets = []

    def link(url):
        targets.append(url)
        return f"https://n.example/c/{len(targets)}"

    return instrument(html, opens=opens, clicks=clicks, pixel=lambda: PIXEL_URL, link=link), targets


WHOLE = """<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
  "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:v="urn:schemas-microsoft-com:vml">
<head><meta charset="utf-8"/><title>A < B & <a href="https://in.the/title">C</a></title>
<style>a > b { content: '<a href="https://in.a/style">' }</style>
<!--[if mso]><xml><o:AllowPNG/></xml><a href="https://for.outlook/only">x</a><![endif]-->
<![if !mso]><link rel=x><![endif]>
</head>
<BODY bgcolor=#ffffff>
<p>Grüße, Ünal &amp; S&ouml;hne &nbsp; &copy; \u2003 \U0001f389
<table><tr><td><A CLASS='b' HREF='https://shop.example/a?x=1&amp;y=2&copy=3' title="a > b">one</a>
<br>unclosed <b>tags <td>everywhere
<script>document.write('<a href="https://in.a/script">')</script>
</BODY>
</html>
"""


def test_only_the_href_of_a_whole_document_changes():
    after, targets = tracked(WHOLE)
    assert targets == ["https://shop.example/a?x=1&y=2&copy=3"]
    assert after == WHOLE.replace("'https://shop.example/a?x=1&amp;y=2&copy=3'", '"https://n.example/c/1"')


def test_the_pixel_goes_before_the_end_of_the_body():
    after, targets = tracked(WHOLE, opens=True, clicks=False)
    assert targets == []
    assert after == WHOLE.replace("</BODY>", PIXEL + "</BODY>")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>Hello</p>", f"<p>Hello</p>{PIXEL}"),
        ("just text", f"just text{PIXEL}"),
        ("", PIXEL),
        ("<body>x<!-- </body> --></body>\n", f"<body>x<!-- </body> -->{PIXEL}</body>\n"),
        ("<script>'</body>'</script>", f"<script>'</body>'</script>{PIXEL}"),
    ],
)
def test_the_pixel_of_a_fragment_goes_at_its_end(before, after):
    assert tracked(before, opens=True)[0] == after


def test_what_is_not_wanted_is_not_done():
    assert tracked(WHOLE, opens=False, clicks=False) == (WHOLE, [])
    assert tracked(None, opens=True) == (None, [])


@pytest.mark.parametrize(
    "tag",
    [
        '<a href="mailto:ana@example.com">',
        '<a href="tel:+4915112345678">',
        '<a href="#top">',
        '<a href="/relative">',
        '<a href="//no.scheme/x">',
        '<a href="javascript:alert(1)">',
        '<a href="https:///no/host">',
        '<a href="https://[broken/">',
        '<a href="https://shop.example\\@evil.example/">',
        '<a href="https://n.example/u/1.abc.def">',
        '<a href="https://shop.example/email/Unsubscribe?id=7">',
        '<a href="https://shop.example/opt-out">',
        '<a href="https://shop.example/x" data-landed-untracked>',
        '<a data-landed-untracked="" href="https://shop.example/x">',
        '<a href="https://shop.example/' + "x" * 1400 + '">',
        '<a name="https://shop.example/">',
        '<a title=" href=https://shop.example/ ">',
        "<a href>",
        "<a href=>",
        '<area href="https://shop.example/x">',
        '<link href="https://shop.example/x">',
        '<abbr href="https://shop.example/x">',
        '</a href="https://shop.example/x">',
        '<!-- <a href="https://shop.example/x"> -->',
        '<a href="https://shop.example/unfinished',
        '<a href="https://shop.example/unfinished"',
    ],
)
def test_these_links_are_left_alone(tag):
    assert tracked(f"<p>{tag}text") == (f"<p>{tag}text", [])


@pytest.mark.parametrize(
    ("tag", "target"),
    [
        ("<a href=https://shop.example/x>", "https://shop.example/x"),
        ("<a\n\thref\n=\n'https://shop.example/x'\n>", "https://shop.example/x"),
        ('<a class="b"href="https://shop.example/x">', "https://shop.example/x"),
        ("<a/href='https://shop.example/x'/>", "https://shop.example/x"),
        ("<a title=it's href=https://shop.example/x>", "https://shop.example/x"),
        ('<A HREF="HTTPS://Shop.example/X">', "https://Shop.example/X"),
        ('<a href=" https://shop.example/\n x ">', "https://shop.example/%20x"),
        ('<a href="https://shop.example/?q=a%20b+c%2Fd&amp;sig=%7E~">', "https://shop.example/?q=a%20b+c%2Fd&sig=%7E~"),
        ('<a href="https://shop.example/&#47;&#x2f;&quot;">', 'https://shop.example///"'),
        ('<a href="https://shop.example/?a&notit&not=1&lt;">', "https://shop.example/?a&notit&not=1<"),
        ('<a href="https://shop.example/größe?q=ü#é">', "https://shop.example/gr%C3%B6%C3%9Fe?q=%C3%BC#%C3%A9"),
        ('<a href="https://münchen.example:8443/x">', "https://xn--mnchen-3ya.example:8443/x"),
        ('<a href="https://shop.example/x" href="https://second.example/">', "https://shop.example/x"),
    ],
)
def test_these_links_are_led_through_to_just_where_they_led(tag, target):
    after, targets = tracked(f"<p>{tag}text")
    assert targets == [target]
    assert "https://n.example/c/1" in after
    assert lxml.html.fromstring(after).xpath("//a/@href") == ["https://n.example/c/1"]


def test_what_a_link_is_led_to_cannot_leave_its_attribute():
    after = instrument(
        "<a href='https://shop.example/'>x</a>",
        opens=False,
        clicks=True,
        pixel=str,
        link=lambda url: """https://n.example/?"'><script>&amp""",
    )
    [href] = lxml.html.fromstring(after).xpath("//a/@href")
    assert href == """https://n.example/?"'><script>&amp"""


@given(st.text("<>/!-abch ref='\"=&;#[]\n\thttps:.é", max_size=200))
def test_whatever_the_document_the_rest_of_it_stays(html):
    after, targets = tracked(html)
    assert len(re.findall(r'"https://n\.example/c/\d+"', after)) == len(targets)
    pieces = re.split(r'"https://n\.example/c/\d+"', after)
    place = 0
    for piece in pieces:
        found = html.index(piece, place)
        place = found + len(piece)
    assert place == len(html)
    assert html.startswith(pieces[0])


class Counter(HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets = []

    def handle_starttag(self, tag, attrs):
        href = dict(reversed(attrs)).get("href")
        if tag == "a" and href and (target := target_of(href)):
            self.targets.append(target)


ATTRIBUTES = st.lists(
    st.sampled_from(
        ['href="https://s.example/1"', "href='http://s.example/2'", "href=https://s.example/3", "id=x", "b"]
    ),
    max_size=3,
).map(" ".join)
TAGS = st.builds("<a {}>".format, ATTRIBUTES)
PIECES = st.one_of(
    TAGS, st.sampled_from(["</a>", "<p>", "text & more", "<br/>", "<!-- <a href='https://x/'> -->", "\n"])
)


@given(st.lists(PIECES, max_size=20).map("".join))
def test_another_parser_finds_the_same_links(html):
    counter = Counter()
    counter.feed(html)
    counter.close()
    assert tracked(html)[1] == counter.targets


@pytest.mark.parametrize(
    "piece", ["<a ", "<!--", "<!", "</", "<a x='", '<a href="', "<![CDATA[", "<title>", "<a =", "<a/", "<", "&"]
)
def test_a_hostile_document_takes_no_time(piece):
    began = time.process_time()
    tracked(piece * (300_000 // len(piece)), opens=True)
    assert time.process_time() - began < 2
