"""Words that ask for nothing: what to leave alone, what is forbidden, the opposite of a task.

They are few and plain. What else asks for nothing is the model's to read.
"""

from __future__ import annotations

import re

REFUSAL = re.compile(
    r"\b(?:don['’]?t|do not|never|without|keep|leave|not the|no need|ohne|lass|behalte|nicht den|"
    r"sans|laisse|garde|ne touche\w*|sin|deja|conserva|no toques|sem|deixa|não mex\w+|без|оставь|"
    r"не (?:трога|меня|убира)\w*)\b|"
    r"不要|不用|别|別|勿|保留|保持|ないで|そのまま|ずに|말고|않고|그대로",
    re.IGNORECASE,
)
"""Marks what to leave alone, for models that have no class for it."""
NEGATION = re.compile(
    r"\b(?:not?|\w+n['’]t|dont|nicht|kein\w*|pas|ne|não|не|нет)\b|\b(?:un|n['’])touch|"
    r"[不没沒未无無非]|留[着著]|ない|なく|ません|안 |지 ?않|지 ?마|" + REFUSAL.pattern,
    re.IGNORECASE,
)
"""Marks a clause that may say what to leave alone, or what is not wrong."""

FORBIDDEN = re.compile(
    r"\s*(?:please |pls )?(?:(?:i )?(?:do not|don['’]?t|never|no need to|(?:you )?needn['’]?t|"
    r"there(?:['’]s| is) no need to|you (?:do not|don['’]?t) (?:have|need) to) "
    r"(?:denois|sharpen|deblur|brighten|lighten|light up|lift|enlarg|upscal|resiz|dehaz|derain|"
    r"remove|get rid|take (?:the|away|out)|clean|clear|fix|enhanc|correct|boost|chang|touch|edit|"
    r"erase|wipe|smooth|make it (?:bright|light|sharp|big|larg|colou?r|vivid)|"
    r"want it (?:any )?(?:bigger|larger|brighter|lighter|sharper|more colou?rful)))|"
    r"[请請]?(?:[别別]|不要|不用|不必|[无無]需|不需要|[没沒]必要|用不[着著])(?:再|去|给我)?"
    r"(?:降噪|去噪|锐化|銳化|提亮|调亮|調亮|放大|调色|調色|美化|修复|修復|去[雾霧雨霾]|除[雾霧]|"
    r"[把将將].{1,6}(?:去|弄|除|消|修|处理|處理))",
    re.IGNORECASE,
)
"""How a text begins that forbids what the model could do, by an action it names."""
LEFT_ALONE = re.compile(
    "[别別勿]|不[要用必动動改变變]|[留保][着著留持]|无所谓|無所謂|没关系|沒關係"
)
"""What makes the noun before it, with nothing between, the thing to leave alone."""

# The opposite of a task: more of a fault, less of what a task gives, or too much of it.
_COURTESY = (
    r"\s*(?:(?:please|pls|just|now|maybe|let['’]?s|(?:can|could|would) you|"
    r"i(?:['’]d like| want| need)(?: you)?(?: to)?) )*"
)
_IT = r"(?:it|this|that|them|(?:the|my|her|his|your) \w+)"
_MORE = (
    r"(?:add|put|overlay|apply|simulate|sprinkle|insert|throw in|give (?:it|me)|"
    r"(?:a bit |much )?more)"
    r"(?: (?:some|a|an|a (?:bit|touch|lot) of|lots of|more|film|fine|coarse|heavy|thick|fake))* "
    r"(?:grain|noise|static|blur|bokeh|rain|raindrops|snow|drizzle|fog|mist|haze|smoke)\b"
    r"(?! (?:removal|reduction|correction|filter))"
)
_LESS = (
    r"(?:lower|reduce|decrease|drop|less|cut|dim|tame|mute|drain|"
    r"(?:turn|bring|tone|pull|dial) down)"
    r"(?: (?:the|its|all|some|overall|image))* (?:brightness|exposure|light|highlights|glare|"
    r"saturation|colou?rs?|vibrance|contrast|sharpness|sharpening|clarity|resolution|file size)\b"
    r"(?!.*\b(?:nois|grain|cast|tint))"
)
_WORSE = (
    rf"(?:make|turn|want|get) {_IT}(?: (?:look|all|a (?:bit|little|lot)|much|slightly|even|more))* "
    r"(?:dark(?:er)?|dimmer|blurr(?:y|ier|ed)|softer|fuzz(?:y|ier)|nois(?:y|ier)|grain(?:y|ier)|"
    r"pale(?:r)?|smaller|tiny|duller|gr[ea]y|fogg(?:y|ier)|mist(?:y|ier)|black and white|pixelated|"
    r"less (?:sharp|crisp|bright|light|vivid|colou?rful|saturated|intense))\b|"
    rf"(?:darken|desaturate|underexpose|pixelate|shrink|downscale|downsize|blur|soften) {_IT}|"
    r"(?:darken|desaturate|underexpose|pixelate|shrink|downscale|downsize)\W*$"
)
_TOO_MUCH = (
    rf"(?:{_IT}(?:['’]s| is| are| looks?) )?(?:(?:way|far|much|a bit|really) )*"
    r"(?:too (?:bright|light|sharp|crisp|colou?rful|saturated|vivid)|over-?exposed|blown[ -]out|"
    r"over-?saturated|over-?sharpened)\W*(?:$|[,.;!])"
)
_CHINESE = (
    r"\s*(?:[请請]|[帮幫](?:我|忙)|麻[烦煩]|能不能|可以|我?想要?|[给給]我|稍微)*(?:"
    r"[添增]?加(?:一?[点點些]|上|入)?(?:噪[点點声聲]|[杂雜][讯訊点點]|[颗顆]粒|雨|[雾霧]|[烟煙]|模糊|[虚虛]化)|"
    r"(?:[图圖]片?|照片|[画畫]面|整[体體张張]|天空|[颜顏]色|色彩)?(?:有[点點]|[实實]在|真的)?"
    r"(?:太|[过過]于|[过過]分)(?:亮|[艳豔]|[鲜鮮][艳豔]|[锐銳]|清晰|刺眼|[饱飽]和)|"
    r"(?:[图圖]片?|照片|[画畫]面|天空)?(?:[过過]曝|曝光[过過]度|高光溢出|[锐銳]化[过過]度)|"
    r"(?:(?:降低|[减減][少弱]|[调調]低|[压壓]低)(?:一?[点點些下])?(?:[图圖]片?|照片|[画畫]面)?的?"
    r"(?:亮度|曝光(?!不足)|光[线線]|[饱飽]和度?|[对對]比度?|[锐銳]度|清晰度|分辨率|解析度|高光)|"
    r"(?:[调調变變弄压壓再更][得]?)?(?:暗|淡|素|模糊|糊)一?[点點些]|[调調变變弄压壓]暗|去色|"
    r"(?:[变變](?:成)?)?黑白|(?:背景)?[虚虛]化(?:背景)?|打[码碼]|打[马馬][赛賽]克|[缩縮]小)"
    r"(?:一?[点點些下]|吧|[谢謝]+|就好|[图圖]片?|照片|[画畫]面)*\W*$)"
)
OPPOSITE = re.compile(
    rf"{_COURTESY}(?:{_MORE}|{_LESS}|{_WORSE}|{_TOO_MUCH})|{_CHINESE}", re.IGNORECASE
)
"""How a clause begins, in English and Chinese, that asks for the opposite of a task."""
