"""Text of others as it may be shown: what a terminal would obey moves its cursor, fills its clipboard, or hides what was said."""

import unicodedata


def visible(text: str, keep: str = "") -> str:
    """The same text, with a sign in the place of each character that shows nothing: controls, half of a pair, marks that
    turn the direction. Wide and narrow spaces are shown; names of files have them.

    Args:
        text: of anybody.
        keep: what passes besides, such as line breaks.

    >>> visible("\\x1b[2Jsigned")
    '\ufffd[2Jsigned'
    """
    return "".join(sign if _shows(sign) or sign in keep else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _shows(sign: str) -> bool:
    return sign.isprintable() or unicodedata.category(sign) == "Zs"
