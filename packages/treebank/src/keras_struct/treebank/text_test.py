"""Words and sentences of raw text: nothing is lost, whatever comes. One backend."""

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_struct import parsers, treebank
from keras_struct.ops.testing import BACKEND
from keras_struct.treebank.text import Sentence, read_sentences, sentences_of

pytestmark = pytest.mark.skipif(BACKEND != "numpy", reason="text is the same on every backend")


def words(text):
    return [list(sentence) for sentence in sentences_of(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("IL-2-mediated NF-kB in snake_case", "IL - 2 - mediated NF - kB in snake_case"),
        ("See http://a_b.c/d-e.", "See http://a_b.c/d-e ."),
        ("Mail me@x.com, or www.x.org/a(b).", "Mail me@x.com , or www.x.org/a ( b ) ."),
        ("Don’t! I CAN'T, it's we'll cannot", "Do n’t ! | I CA N'T , it 's we 'll can not"),
        ("Mr. Doe came on Jan. 5th. He left.", "Mr. Doe came on Jan. 5th . | He left ."),
        ("The U.S. Congress met.", "The U.S. Congress met ."),
        ("See Fig. 2 (p. 3). It says so [12]. Well.", "See Fig. 2 ( p. 3 ) . | It says so"
         " [ 12 ] . | Well ."),
        ("It is so. [12, 13] Yes.", "It is so . | [ 12 , 13 ] Yes ."),
        ("It is so. [12] Yes.", "It is so . [ 12 ] | Yes ."),
        ("We won :) f(x) ()", "We won :) f ( x ) ( )"),
        ('"Go!" he said. "Now."', '" Go ! " | he said . | " Now . "'),
        ("An e-mail, 1,000.5% and/or 3/4", "An e-mail , 1,000.5 % and / or 3/4"),
        ("Wait... what?! ok", "Wait ... what ?! | ok"),
        ("A title without a stop \n", "A title without a stop"),
        ("One\n\ntwo", "One | two"),
        ("a\u200bb\ufeff \x00c\u00ad-d", "a b c\u00ad - d"),
        ("👨\u200d👩\u200d👧 e\u0301", "👨\u200d👩\u200d👧 e\u0301"),
        (" \n ", ""),
    ],
)  # fmt: skip
def test_words_and_sentences(text, wanted):
    assert words(text) == [part.split(" ") for part in wanted.split(" | ") if part]


@pytest.mark.fuzz
@given(st.text() | st.text("ab.'-()[]1A! \n:/@", max_size=60))
def test_between_words_are_only_blanks(text):
    at = 0
    for sentence in sentences_of(text, offset=7):
        assert sentence
        for word, (start, end) in zip(sentence, sentence.offsets, strict=True):
            assert text[start - 7 : end - 7] == word
            assert word.strip()
            between, at = text[at : start - 7], end - 7
            assert not any(c.isprintable() and not c.isspace() for c in between)
        assert "\n" not in sentence.text
    assert not any(c.isprintable() and not c.isspace() for c in text[at:])


@pytest.mark.parametrize("text", ["-" * 10**5, "a+-" * 10**5, ". ) " * 10**4, "A." * 10**5 + "x"])
def test_long_runs_take_linear_time(text):
    assert "".join(itertools.chain(*sentences_of(text))) == text.replace(" ", "")


def read(text, format="text", **options):
    return list(read_sentences(io.StringIO(text, newline=""), format, "a.txt", **options))


def test_offsets_are_those_of_the_whole_file():
    text = "One line\r\nand more.\r\n\r\nThe next, here.\n"
    found = read(text)
    assert [list(s) for s in found] == [
        ["One", "line", "and", "more", "."], ["The", "next", ",", "here", "."]
    ]  # fmt: skip
    for sentence in found:
        assert [text[start:end] for start, end in sentence.offsets] == sentence
    assert found[0].text == "One line and more."
    assert found[1].blanks_after() == [True, False, True, False, True]
    found = read("a (b)\n\n c\n", "words")
    assert [(list(s), s.offsets) for s in found] == [
        (["a", "(b)"], [(0, 1), (2, 5)]),
        (["c"], [(8, 9)]),
    ]


def test_bad_bytes_cost_their_paragraph_only():
    text = "Good.\n\nA caf\udce9\nhere.\n\nGood again.\n"
    with pytest.raises(ValueError, match=r"^a.txt:3: .*byte 0xe9 after 'A caf'"):
        read(text)
    errors: list[Exception] = []
    assert [s[0] for s in read(text, skipped=errors.append)] == ["Good", "Good"]
    assert len(errors) == 1


CONLLU = """\
# sent_id = 1
# text = Vámonos ya
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t_\t_\t_\t_
2\tnos\t_\t_\t_\t_\t_\t_\t_\tkeep=me
2.1\te\t_\t_\t_\t_\t_\t_\t_\t_
3\tya\tya\tADV\t_\t_\t_\t_\t_\t_

"""


def test_conllu_comes_back_with_all_that_is_no_arc():
    (sentence,) = read(CONLLU, "conllu")
    assert sentence == ["Vamos", "nos", "ya"]
    parse = treebank.DependencyParse(sentence, ["X", "PRON", "X"], [0, 1, 1], ["root", "a", "b"])
    lines = parse.sentence.serialize()
    wanted = CONLLU.replace("VERB\t_\t_\t_\t_", "VERB\t_\t_\t0\troot")
    wanted = wanted.replace("\tnos\t_\t_\t_\t_\t_\t_", "\tnos\t_\tPRON\t_\t_\t1\ta")
    assert lines == wanted.replace("ADV\t_\t_\t_\t_", "ADV\t_\t_\t1\tb")
    errors: list[Exception] = []
    broken = CONLLU.replace("1\tVamos", "x\tVamos") + CONLLU
    assert len(read(broken, "conllu", skipped=errors.append)) == 1
    assert "a.txt:4: " in str(errors[0])


def test_outputs_of_words_that_formats_cannot_hold():
    nasty = ["a\tb", "f(x)", "\x00\x1b", "c\nd", "\u2028"]
    tree = treebank.ConstituencyParse(nasty, ["X"] * 5, [(0, 5, "S")])
    (again,) = parsers.read_trees([str(tree.tree)])
    assert [parsers.unescape_word(word) for word in again.words()] == [
        "a\u00a0b", "f(x)", "\u00a0\u001b".replace("\u001b", ""), "c\u00a0d", "\u2028"
    ]  # fmt: skip
    arcs = treebank.DependencyParse(nasty, ["X"] * 5, [0, 1, 1, 1, 1], ["root", *["dep"] * 4])
    (back,) = parsers.read_conllu(arcs.sentence.serialize().split("\n"), trees=True)
    assert [word["form"] for word in back] == ["a b", "f(x)", "_", "c d", "_"]
    for parse in (tree, arcs):
        import xml.etree.ElementTree as ElementTree

        ElementTree.fromstring(treebank.draw(parse))


def test_a_deep_tree_can_be_drawn():
    n = 600
    deep = treebank.ConstituencyParse(["a"] * n, ["X"] * n, [(k, n, "S") for k in range(n - 1)])
    assert "</svg>" in treebank.draw(deep)


def test_what_is_known_of_a_text_is_written():
    (sentence,) = sentences_of("We  left (early).")
    parse = treebank.DependencyParse(sentence, ["X"] * 6, [2, 0, 2, 2, 2, 2], ["dep"] * 6)
    lines = parse.sentence.serialize().split("\n")
    assert lines[0] == "# text = We left (early)."
    assert [line.split("\t")[-1] for line in lines[1:7]] == [
        *("_", "_", "SpaceAfter=No", "SpaceAfter=No", "SpaceAfter=No", "_")
    ]
    found = parse.as_json()
    assert found["text"] == "We left (early)." and found["offsets"][1] == (4, 8)
    assert "text" not in treebank.DependencyParse(["We"], ["X"], [0], ["root"]).as_json()
    assert Sentence(["a"]).blanks_after() == [True]
