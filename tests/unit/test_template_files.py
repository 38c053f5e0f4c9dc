"""Templates as files: what a directory must hold, and what is said when it does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain import sms
from app.domain.models import Channel
from app.domain.variables import check_declaration, sample
from app.errors import InvalidFields
from app.rendering.files import TemplateFile, load_templates
from app.rendering.pool import RenderPool
from app.rendering.types import Rendered, RenderJob, TemplateSource

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "templates"

MANIFEST = """
subject = "Hello {{ name }}"
description = "A greeting."
[variables.name]
example = "Ada"
"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def problems(directory: Path) -> list[tuple[str, str]]:
    with pytest.raises(InvalidFields) as caught:
        load_templates(directory)
    return [(error.field, error.message) for error in caught.value.errors]


def test_a_directory_becomes_the_fields_of_a_version(tmp_path):
    write(tmp_path / "greeting", template_toml=MANIFEST, body_html="<p>Hi {{ name }}</p>")
    write(tmp_path / "a-note", template_toml='subject = "x"\nchannel = "email"\n', body_txt="x")
    note, greeting = load_templates(tmp_path)
    assert (note.template_id, note.text, note.html, note.variables) == ("a-note", "x", None, {})
    assert greeting.template_id == "greeting"
    assert greeting.channel is Channel.EMAIL
    assert greeting.subject == "Hello {{ name }}"
    assert greeting.html == "<p>Hi {{ name }}</p>"
    assert greeting.text is None
    assert greeting.variables == {"name": {"required": True, "description": "", "example": "Ada"}}
    assert greeting.description == "A greeting."


def test_variables_may_be_a_list_of_names(tmp_path):
    write(tmp_path / "a", template_toml='subject = "x"\nvariables = ["b", "c"]', body_txt="x")
    assert list(load_templates(tmp_path)[0].variables) == ["b", "c"]


def test_loose_files_and_hidden_directories_are_not_templates(tmp_path):
    write(tmp_path / "a", template_toml=MANIFEST, body_txt="x")
    write(tmp_path / ".git", config="")
    (tmp_path / "README.md").write_text("how we write")
    assert [template.template_id for template in load_templates(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("manifest", "body", "where", "what"),
    [
        (None, "x", "template.toml", "missing"),
        ("subject = ", "x", "template.toml", "not TOML"),
        ("", "x", "template.toml: subject", "an email needs one"),
        ("subject = 3", "x", "template.toml: subject", "must be a text"),
        ('subject = "x"\nchannel = "fax"', "x", "template.toml: channel", "must be one of email"),
        ('subject = "x"\nchannel = ["email"]', "x", "template.toml: channel", "must be one of email"),
        ('subject = "x"\nsubjct = "y"', "x", "template.toml: subjct", "unknown"),
        ('subject = "x"\nvariables = ["1"]', "x", "template.toml: variables.1", "a name is"),
        ('subject = "x"', None, "template.toml: body", "add body.html"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(tmp_path, manifest, body, where, what):
    folder = write(tmp_path / "a")
    if manifest is not None:
        write(folder, template_toml=manifest)
    if body is not None:
        write(folder, body_txt=body)
    [(field, message)] = problems(tmp_path)
    assert field == f"{folder}/{where}"
    assert what in message


def test_all_templates_are_looked_at_before_any_is_refused(tmp_path):
    write(tmp_path / "a", body_txt="x")
    write(tmp_path / "b", template_toml='subject = "x"\nfoo = 1\nbar = 2', body_txt="x")
    assert len(problems(tmp_path)) == 3


def test_a_body_that_is_not_utf8_is_named(tmp_path):
    folder = write(tmp_path / "a", template_toml=MANIFEST)
    (folder / "body.html").write_bytes(b"\xff\xfe")
    assert problems(tmp_path) == [(f"{folder}/body.html", "not UTF-8")]


def test_a_huge_file_is_not_read(tmp_path):
    folder = write(tmp_path / "a", template_toml=MANIFEST, body_txt="x" * (1024 * 1024 + 1))
    assert problems(tmp_path) == [(f"{folder}/body.txt", "larger than 1048576 bytes")]


def test_a_bad_directory_name_is_refused(tmp_path):
    folder = write(tmp_path / "Order Confirmation", template_toml=MANIFEST, body_txt="x")
    assert [field for field, _ in problems(tmp_path)] == [str(folder)]


def test_a_wrong_path_is_an_error_and_not_an_empty_push(tmp_path):
    assert problems(tmp_path / "nowhere") == [(str(tmp_path / "nowhere"), "is not a directory")]
    assert "holds no templates" in problems(tmp_path)[0][1]


def sources(template: TemplateFile) -> Iterator[tuple[str, TemplateSource]]:
    """What a version of it says, by channel."""
    if template.subject is not None:
        yield "email", TemplateSource(template.template_id, template.subject, template.html, template.text)
    for channel, content in template.channels.items():
        extras = tuple(sorted(content.get("extras", {}).items()))
        yield channel, TemplateSource(template.template_id, content.get("subject", ""), None, content["text"], extras)


async def test_every_example_template_declares_what_it_reads_and_renders():
    pool = RenderPool()
    try:
        for template in load_templates(EXAMPLES):
            used: frozenset[str] = frozenset()
            for channel, source in sources(template):
                check = await pool.check(source)
                assert check.errors == ()
                used |= check.variables
                required = {name for name, spec in template.variables.items() if spec["required"]}
                examples = sample(template.variables)
                least = {name: value for name, value in examples.items() if name in required}
                for rendered in await pool.render([RenderJob(source, examples), RenderJob(source, least)]):
                    assert isinstance(rendered, Rendered)
                    assert rendered.subject or channel == "sms"
                    assert rendered.html or channel != "email"
                    assert "{" not in rendered.text
                    assert "&" not in rendered.text
                    assert all(rendered.extras.values())
                    assert channel != "sms" or sms.size(rendered.text).segments == 1
            assert check_declaration(template.variables, used) == []
            assert used == template.variables.keys()
    finally:
        await pool.stop()


def test_every_channel_has_its_file_and_screens_their_table(tmp_path):
    manifest = (
        'subject = "x"\n[push]\nsubject = "On its way"\n'
        'url = "https://example.com/{{ id }}"\n[push.data]\norder = "1"\n'
    )
    write(tmp_path / "a", template_toml=manifest, body_txt="x", sms_txt="short\n", push_txt="tap")
    [template] = load_templates(tmp_path)
    assert template.channels == {
        "sms": {"text": "short"},
        "push": {
            "text": "tap",
            "subject": "On its way",
            "extras": {"url": "https://example.com/{{ id }}", "data.order": "1"},
        },
    }


def test_a_template_without_an_email_needs_no_subject(tmp_path):
    write(tmp_path / "code", template_toml='description = "2FA"', sms_txt="{{ code }}")
    [template] = load_templates(tmp_path)
    assert (template.subject, template.html, template.text) == (None, None, None)


def test_a_table_without_words_is_named(tmp_path):
    write(tmp_path / "a", template_toml=MANIFEST + '[push]\nsubject = "x"\n', body_txt="x")
    assert problems(tmp_path) == [(f"{tmp_path / 'a' / 'template.toml'}: push", "has no text; add push.txt beside it")]
