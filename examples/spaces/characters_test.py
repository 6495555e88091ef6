"""Sentences to arrays and back, and the scores on counts made by hand."""

import numpy as np
from spaces.characters import LABELS, boundaries, encode, insert_spaces, join_to_rows, score


def tags(text):
    """Tags from letters, a dot for padding."""
    return np.array([[LABELS.index(c) if c in LABELS else -1 for c in row] for row in text.split()])


def test_encode():
    characters, found = encode(["i am here", "it's"], 9)
    assert characters.tolist() == [[9, 1, 13, 8, 5, 18, 5, 0, 0], [9, 20, 27, 19, 0, 0, 0, 0, 0]]
    assert found.tolist() == tags("SBEBMME.. BMME.....").tolist()


def test_spaces_come_back():
    for sentence in ("i am here", "a b", "word", "we are not a"):
        letters = sentence.replace(" ", "")
        _, found = encode([sentence], len(letters))
        assert insert_spaces(letters, boundaries(found)[0]) == sentence


def test_contradicting_tags_have_a_boundary_where_either_says_so():
    assert boundaries(tags("MMB EMM BES SSM")).tolist() == [
        [False, True],
        [True, False],
        [False, True],
        [True, True],
    ]


def test_rows_hold_whole_sentences():
    assert join_to_rows(["a b", "c d", "e f g", "h"], 4) == ["a b c d", "e f g h"]
    assert join_to_rows(["a b", "c d", "e f g", "h"], 3) == ["a b h", "c d", "e f g"]


def test_score():
    target = tags("SBES. BESBE BMES.")
    predicted = tags("SBESB BEBES BMMES")
    # True boundaries 2 + 2 + 1; found 2 + 2 + 0, of which right 2 + 1 + 0.
    found = score(predicted, target)
    expected = (3 / 4, 3 / 5, 2 * 3 / (4 + 5), 1 / 3)
    np.testing.assert_allclose(found, expected)
    assert score(target, target) == (1, 1, 1, 1)
