"""Where words and sentences of English text begin and end; no character is lost or changed.

Words are those of treebanks (Universal Dependencies, Penn): contractions, punctuation, hyphens and
slashes stand alone; addresses, numbers, abbreviations and prefixes stay whole. One expression finds
them, and its last branch takes whatever else is there, so only blanks are between words. On the
words of the English Web Treebank, CRAFT and GUM it is right more often than syntok and spaCy, see
the table in `RESULTS.md`.
"""

import regex

TITLES = r"""
    Mr Mrs Ms Dr Drs Prof Rev Fr Hon Gen Col Lt Sgt Capt Cpt Maj Cmdr Sen Rep Gov Pres St Mt Ft
    Jan Feb Mar Apr Jun Jul Aug Sept Sep Oct Nov Dec
    vs cf ca approx Approx Fig Figs Eq Eqs Ref Refs No Nos Vol pp p al i\.e e\.g c\.f
"""  # abbreviations that end no sentence
OTHERS = r"Jr Sr Inc Corp Ltd Co Cos Bros Assn Dept Univ etc Ave Blvd Rd a\.m p\.m Ph\.D"  # may
PREFIXES = """
    agro ante anti arch be bi bio co counter cross cyber de e eco ex extra inter intra macro mega
    micro mid mini mono multi neo non over pan para peri post pre pro pseudo quasi re semi sub super
    tri ultra un uni vice
"""
CLOSING = 8  # most signs after a full stop that still belong to its sentence
# Words that begin a sentence after initials, which stand before names more often.
_STARTERS = """
    A An And As At But For He I If In It On Please She That The There These They This Those We What
    When You
"""
STARTERS = frozenset(_STARTERS.split())


def _either(words):
    return "|".join(words.split())


# Soft hyphens and joiners are part of a word; other characters without a form are blanks.
_INNER = r"\p{L}\p{M}\p{N}_\u00AD\u200C\u200D"
_LETTER = f"[{_INNER}]"
_CLITIC = r"['’](?i:s|m|d|ll|re|ve)(?!\w)"
_NOT = r"n['’]t\b"
_AFTER_WORD = rf"(?i:{_NOT})|{_CLITIC}|[.&'’](?!{_LETTER})|[^{_INNER}.&'’]|$"
_SMILE = r"[:;]-?[()DP](?!\w)"
_WORD = regex.compile(
    rf"""
      (?:(?:https?|ftp)://|www\.)[^\s<>"()]*[^\s<>"().,;:!?']
    | [\w.+-]{{1,64}}@[\w-]+(?:\.[\w-]+)*
    | \b(?i:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:gim|lem)(?=me\b))
    | {_LETTER}+?(?=(?i:{_NOT})) | (?i:{_NOT}) | {_CLITIC}
    | (?:\p{{Lu}}\.)+(?:\p{{Lu}}\.?)?(?!\w)
    | \b(?:{_either(TITLES)}|{_either(OTHERS)})\.(?!\w)
    | \b(?i:{_either(PREFIXES)})-\p{{L}}{_LETTER}*
    | (?:\d{{3}}-)?\d{{3}}-\d{{4}}\b
    | \d+(?:[.,:/]\d+)*(?:\p{{L}}{_LETTER}*)?
    | {_LETTER}+(?:[.&'’]{_LETTER}+)*?(?={_AFTER_WORD})
    | {_SMILE} | [.!?]{{2,}} | ([^\p{{L}}\p{{N}}\s\p{{Cc}}])\1+
    | (?![\s\p{{Cc}}\p{{Cf}}])\X
    """,
    regex.VERBOSE,
)
_STOP = regex.compile(r"[.!?…]+")
_AFTER_STOP = regex.compile(rf"[\"'”’)\]}}»]|''|{_SMILE}")
_BEFORE_WORD = frozenset(["``", *"\"'“‘(["])
_CITATION = regex.compile(r"\[\d+(?:[,–-]\d+)*\]")
_INITIALS = regex.compile(r"(?:\p{Lu}\.)+")
_TITLES = frozenset(f"{word}." for word in TITLES.replace("\\", "").split())
_BLANK_LINE = regex.compile(r"\n\s*\n")


def word_spans(text):
    """Start and end of each word; between them are only blanks.

    Example:

    >>> from keras_struct.treebank.segmentation import word_spans
    >>> text = "Mr. Doe doesn't e-mail IL-2 data."
    >>> [text[start:end] for start, end in word_spans(text)]
    ['Mr.', 'Doe', 'does', "n't", 'e-mail', 'IL', '-', '2', 'data', '.']
    """
    return [match.span() for match in _WORD.finditer(text)]


def sentence_spans(text):
    """For each sentence the start and end of its words; a blank line always ends one."""
    found, sentence = [], []
    words = word_spans(text)
    for number, span in enumerate(words):
        sentence.append(span)
        after = words[number + 1 : number + 3]
        if after and span[1] < after[0][0]:
            blank_line = _BLANK_LINE.search(text, span[1], after[0][0])
            if blank_line or _ends(text, sentence, after):
                found.append(sentence)
                sentence = []
    return [*found, sentence] if sentence else found


def _ends(text, sentence, after):
    """Whether a sentence ends with the words so far; a blank and at least a word come after."""
    last, furthest = len(sentence) - 1, max(0, len(sentence) - CLOSING)
    while last > furthest and _AFTER_STOP.fullmatch(text, *sentence[last]):
        last -= 1
    word = text[slice(*sentence[last])]
    after_words = [text[slice(*span)] for span in after]
    quoted = after_words[0] in _BEFORE_WORD
    first = after_words[-1] if quoted else after_words[0]
    if _STOP.fullmatch(word):
        goes_on = _STOP.fullmatch(after_words[0]) or _AFTER_STOP.fullmatch(after_words[0])
        if (goes_on and not quoted) or _CITATION.match(text, after[0][0]):
            return False
        return word[-1] in "!?" or not first[0].islower()
    if not first[0].isupper():
        return False
    if last == len(sentence) - 1 and word.endswith(".") and word not in _TITLES:
        return len(word) > 2 and first in STARTERS if _INITIALS.fullmatch(word) else True
    if len(sentence) > 3 and _CITATION.fullmatch(text, sentence[-3][0], sentence[-1][1]):
        return text[sentence[-4][1] - 1] in '.!?"”)'
    return False
