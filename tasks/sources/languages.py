"""One code for a language, out of the many ways in which archives write it."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

# ISO 639-1, then 639-2 (bibliographic and terminological), then names; the languages of the archives' older texts.
_TABLE = """
en eng english anglais englisch
fr fre fra french francais français
de ger deu german deutsch allemand
es spa spanish castilian espanol español
it ita italian italiano
pt por portuguese portugues português
nl dut nld dutch flemish nederlands
la lat latin latina
el gre ell greek
ru rus russian
pl pol polish
cs cze ces czech bohemian
sk slo slk slovak
hu hun hungarian magyar
sv swe swedish svenska
da dan danish dansk
no nor norwegian norsk
fi fin finnish suomi
is ice isl icelandic
ro rum ron romanian
hr hrv croatian
sr srp serbian
sl slv slovenian slovene
bg bul bulgarian
uk ukr ukrainian
lt lit lithuanian
lv lav latvian
et est estonian
ga gle irish gaeilge
cy wel cym welsh
gd gla gaelic
eu baq eus basque
ca cat catalan
he heb hebrew
yi yid yiddish
ar ara arabic
fa per fas persian farsi
tr tur turkish
hi hin hindi
sa san sanskrit
bn ben bengali
ta tam tamil
te tel telugu
ur urd urdu
zh chi zho chinese mandarin
ja jpn japanese
ko kor korean
vi vie vietnamese
id ind indonesian
tl tgl tagalog
haw hawaiian
grc
ang
enm
"""
_CODES = MappingProxyType({name: line.split()[0] for line in _TABLE.strip().splitlines() for name in line.split()})
_UNKNOWN = frozenset({"und", "unknown", "undetermined", "mul", "multiple", "zxx", "mis", "none", "null"})
_TAG = re.compile(r"([a-z]{2,3})[-_][a-z0-9_-]+")
_SEPARATORS = re.compile(r"[;,/|]")


def language_code(value: Any) -> str | None:
    """Return the code of a language as an archive names it; none if it names none, or several.

    ``eng``, ``en``, ``English``, ``eng.``, ``en-US`` and ``["eng"]`` are all ``en``. A word that is not known here
    is its own code, so that it is at least told apart from others.
    """
    if isinstance(value, list | tuple):
        codes = {code for part in value if (code := language_code(part))}
        return codes.pop() if len(codes) == 1 else None
    if not isinstance(value, str):
        return None
    if len(parts := [part for part in _SEPARATORS.split(value) if part.strip()]) > 1:
        return language_code(parts)
    word = " ".join(value.lower().split()).strip(" .[]()?;,/|")
    if tag := _TAG.fullmatch(word):
        word = tag[1]
    if not word or word in _UNKNOWN:
        return None
    return _CODES.get(word, word)
