"""Avatars: drawn faces at any size, each with ten captions made of what is to be seen. A captioned set that installs.

The parts are those of the package python-avatars (MIT; drawn by Pablo Stanley for avataaars.com), put together by it as
an SVG and rendered at the wanted size. It stands in for face sets with captions, such as MM-CelebA-HQ, as the
*sensitive* set of a study whose public images are of other things:
    pip install 'wavedp[data]'

A face is a choice of each attribute (`Face`), drawn uniformly, number after number, from uniform numbers that are
hashed from the set's seed and the face's number. A face whose attributes were drawn before is left out, so no two
records are equal. A fifth of the names (the attributes, joined) is the test split, a twentieth is in no split, for
`prompts`, and the rest is the train split; a longer set begins with the shorter one. The label is the hair's colour
(`bald` is one).

The captions are sentences with the structures of MM-CelebA-HQ's, such as "The woman has long wavy black hair and wears
glasses.": each record has one by each of ten templates, which tell different attributes, and each says what its own
numbers choose. Which of two words for a thing is used depends on the record too.
"""

from __future__ import annotations

import importlib.util
import io
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavedp import extras
from wavedp.config import DataConfig
from wavedp.data.dataset import Records, Split, position, square_shape
from wavedp.data.procedural import uniforms
from wavedp.errors import UserError

LICENCE = "MIT (python-avatars; its parts are drawn by Pablo Stanley, avataaars.com)"
TEST_SHARE, PROMPT_SHARE = 0.2, 0.05
SEED = 101  # of the faces' uniform numbers; other sets use other ones
MOST = 1_000_000  # of n_records: there are some ten million faces, and later ones repeat earlier ones more often
PROMPTS = 100

WOMAN_HAIR = {  # words: part
    "long wavy": "BIG_HAIR", "long straight": "STRAIGHT_1", "long curly": "CURVY",
    "shoulder length": "LONG_NOT_TOO_LONG", "curly": "CURLY", "a bob": "BOB", "a bun": "BUN",
    "dreadlocks": "DREADS", "an afro": "FRO",
}  # fmt: skip
MAN_HAIR = {
    "short straight": "SHORT_FLAT", "short curly": "SHORT_CURLY", "short wavy": "SHORT_WAVED", "shaggy": "SHAGGY",
    "a buzz cut": "CAESAR", "a mohawk": "MOHAWK", "dreadlocks": "SHORT_DREADS_2", "an afro": "FRO", "bald": "NONE",
}  # fmt: skip
HAIR_COLOURS = {"black": "#2C1B18", "brown": "#724133", "blond": "#D6B370", "red": "#C93305", "gray": "#E8E1E1"}
CLASSES = (*HAIR_COLOURS, "bald")
SKINS = {"pale": "#FFDBB4", "light": "#EDB98A", "tanned": "#FD9841", "brown": "#AE5D29", "dark": "#614335"}
GLASSES = {"": "NONE", "glasses": "PRESCRIPTION_2", "round glasses": "ROUND", "sunglasses": "SUNGLASSES"}
BEARDS = {
    "": "NONE",
    "a short beard": "BEARD_LIGHT",
    "a full beard": "BEARD_MAGESTIC",
    "a mustache": "MOUSTACHE_MAGNUM",
}
MOUTHS = {"smiling": "BIG_SMILE", "serious": "SERIOUS", "sad": "SAD", "cheeky": "TONGUE", "surprised": "DISBELIEF"}
EYES = {"open": "DEFAULT", "closed": "CLOSED", "winking": "WINK"}
CLOTHES = {
    "T-shirt": "SHIRT_CREW_NECK", "V-neck shirt": "SHIRT_V_NECK", "hoodie": "HOODIE", "sweater": "COLLAR_SWEATER",
    "overall": "OVERALL",
}  # fmt: skip
COLOURS = {
    "black": "#262E33", "blue": "#5199E4", "gray": "#929598", "green": "#5AB06D", "pink": "#FF488E", "red": "#E5483F",
    "white": "#FFFFFF", "yellow": "#F4C63D",
}  # fmt: skip
BACKGROUNDS = {
    "white": (245, 245, 245), "gray": (150, 155, 160), "blue": (96, 150, 205), "green": (125, 175, 130),
    "purple": (150, 125, 185), "orange": (235, 165, 100),
}  # fmt: skip

shape = square_shape


class Face(NamedTuple):
    """A choice of each attribute: the words of the tables above. What one attribute hides of another has one value."""

    gender: str
    hair: str
    hair_colour: str
    skin: str
    glasses: str
    beard: str
    mouth: str
    eyes: str
    clothes: str
    colour: str
    background: str


def classes(config: DataConfig) -> tuple[str, ...]:
    """The hair's colours, then bald."""
    return CLASSES


def has_captions(config: DataConfig) -> bool:
    """True: ten for each record, on lines of their own."""
    return True


def count(config: DataConfig, split: Split) -> int:
    """n_records for train, a quarter of it for test. Raises UserError for `val`, below 4, and above MOST."""
    if split == "val":
        raise UserError("avatars has no val split: use train or test.")
    if not 4 <= config.n_records <= MOST:
        raise UserError(f"data.n_records={config.n_records} is not offered by avatars: use 4 to {MOST}.")
    return config.n_records if split == "train" else config.n_records // 4


def files(config: DataConfig) -> list[Path]:
    """The package's drawings. Raises UserError where it is not installed."""
    return list(_drawings())


def content(config: DataConfig, split: Split) -> list[str]:
    """The package's version, and that of the library which renders its drawings."""
    from importlib.metadata import version

    return [f"python-avatars {version('python-avatars')}", f"resvg-py {version('resvg-py')}"]


def captions(config: DataConfig, split: Split) -> list[str]:
    """Every record's ten captions, on lines of their own; no face is drawn."""
    return [_told(face) for face in faces(split, count(config, split))]


def prompts(config: DataConfig) -> list[str]:
    """A hundred sentences like the captions, of faces that are in no split: public, as this code makes them of no
    record."""
    return [sentences(face)[number % 10] for number, face in enumerate(faces("prompts", PROMPTS))]


def read(config: DataConfig, split: Split, n: int) -> Records:
    """Draw the first n faces."""
    shown = faces(split, n)
    images = np.empty((n, config.channels, config.size, config.size), np.uint8)
    for row, face in enumerate(shown):
        images[row] = draw(face, config.size, config.channels)
    labels = np.array([CLASSES.index(face.hair if face.hair == "bald" else face.hair_colour) for face in shown])
    return images, labels.astype(np.int64), tuple(map(_told, shown))


def draw(face: Face, size: int, channels: int) -> np.ndarray:
    """uint8 [channels size size]: head and shoulders before one colour. Raises UserError without the package."""
    _drawings()
    import python_avatars as parts
    import resvg_py
    from PIL import Image

    svg = parts.Avatar(
        top=parts.HairType[(WOMAN_HAIR if face.gender == "woman" else MAN_HAIR)[face.hair]],
        hair_color=HAIR_COLOURS[face.hair_colour],
        facial_hair=parts.FacialHairType[BEARDS[face.beard]],
        facial_hair_color=HAIR_COLOURS[face.hair_colour],
        skin_color=SKINS[face.skin],
        accessory=parts.AccessoryType[GLASSES[face.glasses]],
        mouth=parts.MouthType[MOUTHS[face.mouth]],
        eyes=parts.EyeType[EYES[face.eyes]],
        eyebrows=parts.EyebrowType.DEFAULT,
        nose=parts.NoseType.DEFAULT,
        clothing=parts.ClothingType[CLOTHES[face.clothes]],
        clothing_color=COLOURS[face.colour],
    ).render()
    # The drawing is 264 wide and 280 high; what is cut off is shirt.
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, skip_system_fonts=True)
    drawn = Image.open(io.BytesIO(png)).convert("RGBA").crop((0, 0, size, size))
    canvas = Image.alpha_composite(Image.new("RGBA", (size, size), (*BACKGROUNDS[face.background], 255)), drawn)
    pixels = np.asarray(canvas.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def sentences(face: Face) -> list[str]:
    """The ten captions of a face, one by each template. The same face always has the same ones."""
    u = position(" ".join(face))  # chooses between words that mean the same

    def either(*words: str) -> str:
        nonlocal u
        u = (u * 997) % 1
        return words[int(u * len(words))]

    who = f"{either('The', 'This')} {face.gender}"
    it, its = ("She", "Her") if face.gender == "woman" else ("He", "His")
    person = either("person", face.gender)
    hair, worn = _hair_words(face), f"{_article(face.colour)} {face.colour} {face.clothes}"
    skin, look = f"{face.skin} skin", _look(face.mouth)
    glasses = f"wears {face.glasses}" if face.glasses else either("wears no glasses", "does not wear glasses")
    behind = f"the background is {face.background}"
    eyes = f"{it} winks" if face.eyes == "winking" else f"{its} eyes are {face.eyes}"
    if face.glasses == "sunglasses":
        eyes = f"{its} eyes are behind sunglasses"
    extra = f"has {face.beard}" if face.beard else f"has {skin}"
    worn_on_face = f"wears {face.glasses}" if face.glasses else f"wears {worn}"
    return [
        f"{who} {hair} and {glasses}.",
        f"{who} {look} and wears {worn}.",
        f"{who} {hair}. {it} {look}.",
        f"{who} {extra} and {hair}.",
        f"{it} {worn_on_face} and {look}.",
        f"{_article(person).capitalize()} {person} who {hair} and wears {worn}.",
        f"{who} has {skin}, {look}, and {worn_on_face}.",
        f"{who} wears {worn}, and {behind}.",
        f"{eyes}. {it} {hair} and {extra}.",
        f"{either('A picture', 'A drawing', 'A portrait')} of a {face.gender} who {hair}, {extra}, {glasses} and wears "
        f"{worn}.",
    ]


@lru_cache(maxsize=8)
def faces(division: str, n: int) -> tuple[Face, ...]:
    """The first n faces of a split, or of `prompts`."""
    found: list[Face] = []
    known: set[Face] = set()
    drawn = 0
    while len(found) < n:
        more = 2 * n + 64  # longer draws begin with shorter ones
        numbers = uniforms(SEED, drawn + more, 11)[drawn:]
        drawn += more
        for row in numbers:
            face = _face(row)
            if face in known:
                continue
            known.add(face)
            place = position(" ".join(face))
            of = "test" if place < TEST_SHARE else "prompts" if place < TEST_SHARE + PROMPT_SHARE else "train"
            if of == division and len(found) < n:
                found.append(face)
    return tuple(found)


def _face(numbers: np.ndarray) -> Face:
    """A face by 11 uniform numbers."""

    def one(words: dict[str, str] | dict[str, tuple[int, int, int]], u: float) -> str:
        return list(words)[int(u * len(words))]

    woman = numbers[0] < 0.5
    hair, beard = one(WOMAN_HAIR if woman else MAN_HAIR, numbers[1]), "" if woman else one(BEARDS, numbers[5])
    hidden = hair == "bald" and not beard  # hair that is not there has no colour
    glasses = one(GLASSES, numbers[4])
    return Face(
        gender="woman" if woman else "man",
        hair=hair,
        hair_colour="black" if hidden else one(HAIR_COLOURS, numbers[2]),
        skin=one(SKINS, numbers[3]),
        glasses=glasses,
        beard=beard,
        mouth=one(MOUTHS, numbers[6]),
        eyes="open" if glasses == "sunglasses" else one(EYES, numbers[7]),
        clothes=one(CLOTHES, numbers[8]),
        colour=one(COLOURS, numbers[9]),
        background=one(BACKGROUNDS, numbers[10]),
    )


def _hair_words(face: Face) -> str:
    """`has long wavy black hair`, `has a black bob`, `is bald`."""
    colour = face.hair_colour
    if face.hair == "bald":
        return "is bald"
    if face.hair.startswith(("a ", "an ")):
        return f"has {_article(colour)} {colour} {face.hair.partition(' ')[2]}"
    return f"has {colour} dreadlocks" if face.hair == "dreadlocks" else f"has {face.hair} {colour} hair"


def _look(mouth: str) -> str:
    return {
        "smiling": "is smiling", "serious": "looks serious", "sad": "looks sad",
        "cheeky": "sticks the tongue out", "surprised": "looks surprised",
    }[mouth]  # fmt: skip


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _told(face: Face) -> str:
    return "\n".join(sentences(face))


@lru_cache(maxsize=1)
def _drawings() -> tuple[Path, ...]:
    extras.require("data=avatars", "python_avatars", "resvg_py")
    spec = importlib.util.find_spec("python_avatars")
    assert spec is not None
    assert spec.origin is not None
    return tuple(sorted((Path(spec.origin).parent / "avatar_parts").rglob("*.svg")))
