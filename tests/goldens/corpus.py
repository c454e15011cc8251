"""The texts: written for these tests, about boats, bread and weather.

Row lengths differ on purpose. With the tests' sequence length of 24 tokens
some rows are cut, some are padded, and the shortest has a few tokens only.
"""

TRAIN = [
    "The ferry leaves at nine.",
    "Mira folds the dough twice, waits an hour, and folds it again before the oven is hot.",
    "Rain tomorrow.",
    "A rope that has been wet and dried many times loses its strength long before it looks worn, "
    "so the harbour crew cut off the ends every spring.",
    "Count the steps: one, two, three, four, five.",
    "Where did the heron go? Over the reeds, toward the mill.",
    "Bread needs flour, water, salt and patience.",
    "\"Hold the line,\" said the pilot, \"and don't let the bow swing past the buoy!\"",
    "Snow fell for 12 hours; by morning the road was gone and the dog would not leave the porch.",
    "Yes.",
    "The café on the quay sells soup for 4€ and naïve paintings for 40€.",
    "Wind from the west, 18 knots, falling to 7 knots by dusk.\nSea state moderate.",
    "She keeps three clocks in the kitchen, and none of them agree.",
    "Slow fermentation makes the crumb open and the crust dark, because the yeast has time to eat "
    "what the flour gives up.",
    "If the lamp is green, go; if it is red, wait.",
    "Old boats creak. New boats creak too, but nobody writes songs about it.",
    "Salt, then water, then flour.",
    "The baker and the sailor met at dawn, one going to work and the other coming home.",
]

VALID = [
    "The mill by the river grinds flour on Mondays.",
    "Clouds over the harbour.",
    "Two loaves, four rolls, and a jar of honey were left on the step by someone who never said a word.",
    "The pilot waits for the tide.",
    "Salt air ruins clocks; the kitchen has three of them.",
]

# A completion starts with a space and a prompt never ends with one, so the
# boundary is also a boundary of the pre-tokenizer: encoding the whole and
# encoding the two halves give the same tokens (make.py asserts it).
COMPLETION = [
    ("Question: when does the ferry leave? Answer:", " At nine."),
    ("Colour of the lamp when boats must wait:", " red"),
    ("Translate to weather words: water from the sky ->", " rain, and more of it tomorrow than today"),
    ("Name three things for bread:", " flour, water and salt; a little patience too, and an oven that is hot enough to bake it"),
    ("Q: one plus two? A:", " three"),
    ("Who met at dawn?", " The baker and the sailor."),
    ("Finish: the heron flew over the", " reeds and toward the mill, where nobody had seen it before"),
    ("Wind at dusk:", " 7 knots"),
    ("Clocks in the kitchen?", " Three, none of them right."),
    ("Why cut the rope?", " It was worn, and a worn rope is a promise that nobody can keep in a storm at sea."),
]

# Text the tokenizer is trained on. It repeats the vocabulary of the rows
# above so that the few merges are used by them.
TOKENIZER = TRAIN + VALID + [p + c for p, c in COMPLETION] + [
    "The harbour, the quay, the mill and the kitchen are the four places in these rows.",
    "Water runs over the weir while the baker waits for the dough and the sailor waits for the tide.",
    "Nobody knows the road when the snow has been falling for hours and hours.",
]
