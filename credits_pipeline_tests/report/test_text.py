"""Names and messages from outside, shown in Markdown and on terminals: they are what they say, and do nothing."""

import html
import re

import jinja2
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # a true reader of Markdown; Dagster's command line brings it

from credits_pipeline.templates import KeptCompiled
from credits_pipeline.text import markdown, markdown_table, plain

RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

HOSTILE = st.text(
    st.one_of(st.sampled_from("<>[]()!*_`#+-=.:/|~&;\\\"'0123 \n\t\x1b\u202e\u200b"), st.characters()), max_size=30
)


@given(HOSTILE)
@example("<script>alert(1)</script>")
@example("[click](javascript:alert(1))")
@example("![x](https://evil.example/pixel.png)")
@example("<https://evil.example>")
@example("&#60;b&#62; &lt;i&gt;")
@example("\\<")
@example("[x]: https://evil.example")
@example("```\ncode")
def test_markdown_shows_exactly_the_characters_of_a_name_and_no_tag_link_or_picture(words):
    shown = RENDERER.render(f"x{markdown(words)}x").strip()
    assert re.fullmatch(r"<p>[^<>]*</p>", shown), shown
    assert html.unescape(shown[3:-4]) == f"x{plain(words)}x"


@given(HOSTILE)
@example("a | b")
@example("a\n| --- |\n| b |")
def test_a_name_in_a_table_stays_in_its_cell(words):
    shown = RENDERER.render(markdown_table(["model", "usd"], [[words, "1"], ["b", "2"]]))
    assert shown.count("<tr>") == 3
    assert shown.count("<td") == 4
    assert set(re.findall(r"</?([a-z0-9]+)", shown)) == {"table", "thead", "tbody", "tr", "th", "td"}


@given(HOSTILE)
@example("\x1b]0;title\x07\x1b[2J\x9b31m")
@example("evil\r\nfailed: nothing")
def test_plain_text_is_one_line_without_anything_that_a_terminal_obeys(words):
    shown = plain(words)
    assert len(shown) == len(words)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", shown)


def test_templates_are_compiled_once_and_each_time_where_nothing_can_be_kept(tmp_path):
    kept = KeptCompiled()
    for folder, files in ((tmp_path, 1), (tmp_path / "absent", 0)):
        kept.directory = str(folder)
        for _ in range(2):
            environment = jinja2.Environment(loader=jinja2.DictLoader({"page": "{{ 1 + 1 }}"}), bytecode_cache=kept)
            assert environment.get_template("page").render() == "2"
        assert len([*folder.glob("*.cache")]) == files
