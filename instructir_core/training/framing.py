"""How people type a request: greetings, politeness, typos, and two requests in one sentence.

`_FRAMES` holds what the people of each language put around a request and between two of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

_T = TypeVar("_T")


def pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """One of them, each as likely."""
    return options[int(rng.integers(len(options)))]


class _Frame(NamedTuple):
    """What stands before and after a request, and between two; alternatives between bars."""

    openings: str
    closings: str
    links: str


_FRAMES = {
    "en": _Frame(
        "please|can you|could you please|hey,|hi!|pls|I want you to|would you|yo|kindly|help!|"
        "ok so|um|hello,|I need you to|just|quickly",
        "please|thanks|pls|thank you!|!!|asap|?|for me|:)|lol|if you can|thx|plz|...|right now|"
        "as best you can|and keep the rest|.",
        " and |, then | and also |, |; | and then | & | plus ",
    ),
    "de": _Frame(
        "bitte|bitte einmal|kannst du|könntest du bitte|hallo,|hi!|hey,|moin,|könnten Sie|"
        "Hilfe!|also|ähm,|guten Tag,|du,|einfach nur|schnell|mal bitte",
        "bitte|danke|danke!|danke dir|!!|?|:)|lg|wenn's geht|wenn möglich|vielen Dank|...|.|thx|"
        "so gut es geht|ist dringend|und der Rest bleibt so|merci",
        " und |, dann |, und außerdem |, |; | und danach | & | plus | und auch noch | sowie ",
    ),
    "fr": _Frame(
        "s'il te plaît|s'il vous plaît,|svp|stp|bonjour,|salut,|coucou,|hello,|tu peux|"
        "est-ce que vous pouvez|pouvez-vous|à l'aide !|alors|euh,|bon,|merci de|dis,|vite,",
        "s'il te plaît|svp|stp|merci|merci !|merci d'avance|!!|?|:)|si possible|mdr|...|.|"
        "le mieux possible|c'est urgent|et rien d'autre|mercii|si tu peux",
        " et |, puis |, et aussi |, |; | et ensuite | & | plus | et après | et en plus ",
    ),
    "es": _Frame(
        "por favor|porfa|por favor,|hola,|buenas,|oye,|¿puedes|¿podrías|me puedes|ayuda!|"
        "a ver,|eh,|bueno,|necesito que|quiero|hey,|rápido,|hola!",
        "por favor|porfa|gracias|gracias!|!!|?|:)|si puedes|xfa|muchas gracias|...|.|jaja|"
        "lo mejor posible|es urgente|y lo demás igual|si se puede|plis",
        " y |, luego |, y también |, |; | y después | & | más | y además |, y de paso ",
    ),
    "pt": _Frame(
        "por favor|por favor,|pfv|olá,|oi,|oi!|bom dia,|você pode|podes|dá para|dá pra|socorro!|"
        "então,|hã,|quero|preciso,|ei,|rápido,|queria",
        "por favor|pfv|pf|obrigado|obrigada!|obg|!!|?|:)|se der|valeu|se possível|...|.|kkk|"
        "o melhor possível|é urgente|e o resto fica igual|brigada",
        " e |, depois |, e também |, |; | e em seguida | & | mais | e ainda | e aproveita e ",
    ),
    "ru": _Frame(
        "пожалуйста|пожалуйста,|плиз|привет,|здравствуйте,|добрый день,|можешь|можно|"
        "можете|помогите!|слушай,|ну|эм,|хочу|надо|эй,|быстро|а можно",
        "пожалуйста|плиз|спасибо|спасибо!|спс|!!|?|)|))|если можно|если получится|пж|...|.|"
        "заранее спасибо|как сможешь|срочно|остальное не меняй",
        " и |, потом |, а ещё |, |; | и затем | & | плюс | и заодно |, а также ",
    ),
    "zh": _Frame(
        "请|帮我|请帮我|麻烦|麻烦你|能不能|可以|帮忙|你好，|嗨，|那个，|我想|急！|拜托，|大神，|"
        "老师，|亲，|给我|快",
        "吧|谢谢|，谢谢|，谢谢！|！|。|！！|？|啊|呗|可以吗|好吗|行吗|，拜托了|，急|～|……|，辛苦了|"
        "，其他别动| 3q",
        "，|，然后|，再|，并且|，同时|，还有|，也|；|，最后|，顺便",
    ),
    "zh-Hant": _Frame(
        "請|幫我|請幫我|麻煩|拜託|可以|能不能|我想|欸，|那個，|你好，|哈囉，|不好意思，|大大，|"
        "求救！|急！|快|幫忙|唔該|想請你",
        "喔|啦|吧|嗎|好嗎|可以嗎|耶|～|，謝謝|，謝謝！|，感恩|，拜託|！|。|！！|？|……|，急|"
        "，辛苦了|，其他不要動|，唔該| 3q",
        "，|，然後|，再|，而且|，同時|，還有|，也|；|，最後|，順便|、",
    ),
    "ja": _Frame(
        "すみません、|お願い、|あの、|ねえ、|えっと、|至急、|こんにちは、|これ、|できれば|助けて！|"
        "ちょっと|もしよければ|急ぎで|この写真なんですが、|なあ、|どうか|頼む、",
        "、お願いします|。|！|！！|？|ね|よ|、よろしく|、よろしくお願いします|。お願いします！|、頼む|"
        "笑|ｗ|…|〜|、急ぎです|、ありがとう|、ほかはそのままで|、できれば",
        "、|、あと|、それから|、ついでに|、そして|、さらに|、次に|。それと|＋|して",
    ),
    "ko": _Frame(
        "저기,|안녕하세요,|혹시|제발|빨리|이거 좀|죄송한데|도와주세요!|음|저기요|부탁인데|"
        "선생님,|있잖아,|가능하면|급한데|하이|여기",
        "부탁드려요|부탁해요|감사합니다|고마워요|!!|!|?|ㅠㅠ|ㅎㅎ|ㅋㅋ|~|...|.|급해요|플리즈|제발요|"
        "가능할까요|나머지는 그대로요",
        " 그리고 |, |, 그다음 |, 그리고 나서 |, 또 |, 추가로 | + |; | 하고 |, 마지막으로 ",
    ),
}
"""By the name of the language's corpus file."""
_UNSPACED = ("zh", "zh-Hant", "ja")
_SLIPS = {
    "zh": dict(
        zip(
            "的得在再像象做作糊噪暗点那哪清晰雨雾亮片照",
            "得的再在象像作做胡燥按典哪那青析语务量篇找",
            strict=True,
        )
    ),
    "zh-Hant": dict(
        zip(
            "的得在再像象做作糊噪暗點哪雨霧亮片",
            "得的再在象像作做胡躁按典那語誤量篇",
            strict=True,
        )
    ),
    "ja": dict(zip("っゃゅょぼぶざずー", "つやゆよぽぷさづ～", strict=True)),
}
"""Characters that a phonetic keyboard confuses."""
_NEIGHBOURS = dict(
    zip(
        "qwertyuiopasdfghjklzxcvbnmйцукенгшщзхъфывапролджэячсмитьбю",
        "wa esd rdf tfg ygh uhj ijk okl pl o qsz awdx sefc drgv fthb gyjn hukm jil ko asx zsdc "
        "xdfv cfgb vghn bhjm njk "
        "цф йуы цкв увап капн енпр негр гншо шщлд щзд щзхж хз цычя фывч вася авпс априм пнрот "
        "рольт олдь лджб дждэю жэх фыч чсы смив стма миь тьо тлб ьлюд бж".split(),
        strict=True,
    )
)
_PLAIN = str.maketrans(
    "áàâãçéèêëíìîïñóòôõúùûёÁÀÂÃÇÉÈÊËÍÎÑÓÔÕÚ", "aaaaceeeeiiiinoooouuuеAAAACEEEEIINOOOU"
) | str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "œ": "oe"}
)
"""Letters as they are typed where the keyboard lacks them or the hand is in a hurry."""


def vary(text: str, rng: np.random.Generator, language: str) -> str:
    """The sentence as another person would type it: framed, misspelt, without accents."""
    language = _manner(text, language)
    if language in _UNSPACED:
        return _vary_unspaced(text, rng, language)
    frame = _FRAMES[language]
    opening = pick(frame.openings.split("|"), rng) + " " if rng.random() < 0.2 else ""
    closing = " " + pick(frame.closings.split("|"), rng) if rng.random() < 0.2 else ""
    words = text.split()
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 3)):
            i = int(rng.integers(len(words)))
            words[i] = _misspell(words[i], rng)
    if len(words) > 4 and rng.random() < 0.1:
        del words[int(rng.integers(len(words)))]
    # Koreans leave out spaces at will.
    space = "" if language == "ko" and rng.random() < 0.2 else " "
    typed = opening + space.join(words) + closing
    return typed.translate(_PLAIN) if not typed.isascii() and rng.random() < 0.3 else typed


def _manner(text: str, language: str) -> str:
    """The language whose frame suits the text: words of Latin letters alone are typed as English
    where the language has another script without spaces."""
    return "en" if language in _UNSPACED and text.isascii() else language


def _misspell(word: str, rng: np.random.Generator) -> str:
    """One slip of the fingers or the ear in a word of at least four letters."""
    if len(word) < 4:
        return word
    i = int(rng.integers(1, len(word) - 1))
    kind = rng.integers(5)
    if kind == 0:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + word[i] + word[i:]
    if kind == 2:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 3:
        other = "e" if word[i].isascii() else word[i].translate(_PLAIN)
        return word[:i] + pick(_NEIGHBOURS.get(word[i], other), rng) + word[i + 1 :]
    alphabet = "aeiou" if word[0].isascii() else "аеиоуыэюя"
    vowels = [k for k, letter in enumerate(word) if letter in alphabet]
    if not vowels:
        return word
    k = vowels[int(rng.integers(len(vowels)))]
    return word[:k] + pick(alphabet, rng) + word[k + 1 :]


def _vary_unspaced(text: str, rng: np.random.Generator, language: str) -> str:
    frame, slips = _FRAMES[language], _SLIPS.get(language, {})
    opening = pick(frame.openings.split("|"), rng) if rng.random() < 0.2 else ""
    closing = pick(frame.closings.split("|"), rng) if rng.random() < 0.2 else ""
    if rng.random() < 0.2:
        text = re.sub("[，。！？、；：]", lambda _: pick(("", " ", ","), rng), text).strip()
    characters = list(text)
    if rng.random() < 0.15:
        places = [i for i, c in enumerate(characters) if c in slips]
        if places:
            i = pick(places, rng)
            characters[i] = slips[characters[i]]
    if len(characters) > 6 and rng.random() < 0.1:
        del characters[int(rng.integers(len(characters)))]
    text = "".join(characters)
    return opening + (text.rstrip("。！？，") if closing else text) + closing


def join(first: str, second: str, rng: np.random.Generator, language: str) -> str:
    """Two requests of one language in one sentence."""
    links = _FRAMES[_manner(first, language)].links.split("|")
    return first.rstrip(".!?。！？") + pick(links, rng) + second
