"""Short stories in plain English, put together from sentences that were written for this repository. Like what they
are made of they are dedicated to the public domain (CC0 1.0).

A model of this size learns the look of old prose but not its sense; from many short stories about few things it
learns to keep to one person, one animal and one matter for some sentences.
"""

import random

GIRLS = "Anna Mary Clara Rose Lucy Emma Ruth Nell Alice Hannah Ida Martha Ellen Nora Grace Kate".split()
BOYS = "Tom Peter John Will Sam Ben Jack Henry Hugh Paul Robert Simon Martin Daniel Walter Ned".split()
WORK = {
    "fisherman": "the harbor", "baker": "the village", "miller": "the river", "farmer": "the hill",
    "carpenter": "the edge of the wood", "sailor": "the sea", "shepherd": "the mountain", "gardener": "the park",
    "teacher": "the school", "doctor": "the market", "weaver": "the old bridge", "clockmaker": "the church",
    "postman": "the long road", "shoemaker": "the little square", "blacksmith": "the crossroads",
}
ANIMALS = ["dog", "cat", "goat", "gull", "crow", "horse", "donkey", "goose", "fox", "hare", "hen", "mouse", "owl", "pony"]
OLD = ["old", "small", "grey", "brown", "white", "black", "clever", "lazy", "hungry", "shy", "friendly", "proud"]
THINGS = ["key", "lamp", "coat", "basket", "hat", "letter", "ring", "boat", "clock", "ladder", "kettle", "book", "rope",
          "bell", "knife", "map", "chair", "blanket", "bottle", "spoon", "mirror", "drum", "box", "bucket"]
LOOKS = ["old", "red", "blue", "broken", "heavy", "silver", "wooden", "small", "green", "beautiful", "plain", "new"]
PLACES = ["under the bed", "behind the door", "in the barn", "by the well", "on the roof", "in the tall grass",
          "at the bottom of the boat", "beside the road", "in the cellar", "between two stones", "in the kitchen",
          "on the beach", "under the apple tree", "in an empty barrel", "on the bridge", "at the foot of the stairs"]
FOOD = ["bread", "soup", "apples", "cheese", "fish", "porridge", "plums", "honey", "eggs", "potatoes", "milk", "cake"]
TIMES = ["One morning", "One evening", "One day", "One night", "In the spring", "In the autumn", "Early one morning",
         "Late in the evening", "On a Sunday", "On the first day of winter", "At the end of summer", "This morning",
         "Yesterday", "Last night", "Last winter", "Before breakfast", "After supper", "At noon"]
WEATHER = [
    "The wind came from the {wind} and shook the windows.", "The wind was strong, and the clouds ran over the hills.",
    "The wind had gone to sleep, and the sea lay as flat as a table.", "The wind turned to the {wind} before noon.",
    "The rain fell all day and all night.", "The rain stopped, and the sun came out.", "It was cold, and the ground was white.",
    "It was a warm day, and the bees were busy.", "The fog was so thick that no one could see the road.",
    "The snow lay deep in front of the door.", "The sky was clear, and the stars were bright.",
    "The sun was low and the shadows were long.", "A storm was coming; the birds were already quiet.",
    "The morning was still, and smoke rose straight from the chimneys.", "The moon stood above the roof like a lamp.",
    "The wind blew hard that night, and nobody slept.", "The sea was rough, and the boats stayed in the harbor.",
    "The sea was calm, and the water was green.", "The leaves were falling, and the evenings were growing long.",
    "Thunder rolled far away, behind the hills.", "The wind smelled of salt and of rain.",
]
SENSE = [
    "It is better to ask than to wonder.", "A small gift can be worth more than gold.", "Nobody is too old to learn.",
    "Who waits long enough finds the door open.", "A friend is worth a little trouble.", "Good work needs its time.",
    "What is lost is often very near.", "A kind word costs nothing.", "The one who laughs last had the better view.",
    "There is always room for one more at the table.", "A locked box is only a box until someone opens it.",
    "Even a short road is long in the rain.", "The truth is heavy, but it does not break.",
]


class Story:
    def __init__(self, dice: random.Random):
        self.pick = pick = dice.choice
        self.dice = dice
        girl = dice.random() < 0.5
        other_girl = dice.random() < 0.5
        work = pick(list(WORK))
        self.words = {
            "name": pick(GIRLS if girl else BOYS), "he": "she" if girl else "he", "him": "her" if girl else "him",
            "his": "her" if girl else "his", "child": "girl" if girl else "boy",
            "work": work, "place": WORK[work], "animal": pick(ANIMALS), "nature": pick(OLD),
            "thing": pick(THINGS), "looks": pick(LOOKS), "there": pick(PLACES), "where": pick(PLACES),
            "food": pick(FOOD), "more": pick(FOOD), "wind": pick(["north", "south", "east", "west"]),
            "number": pick(["two", "three", "four", "five", "six", "seven", "ten", "twelve"]),
            "kin": pick(["sister", "aunt", "grandmother", "mother"] if other_girl else
                                             ["brother", "uncle", "grandfather", "father"]),
            "they": "she" if other_girl else "he", "them": "her" if other_girl else "him",
            "their": "her" if other_girl else "his",
            "glad": pick(["glad", "happy", "pleased", "content"]), "sad": pick(["sad", "angry", "worried", "tired"]),
        }
        self.words["other"] = pick([n for n in (GIRLS if other_girl else BOYS) if n != self.words["name"]])

    def say(self, *choices: str) -> str:
        self.words["when"] = self.pick(TIMES)
        text = self.pick(choices).format(**self.words)
        for a in ("a", "A"):
            for vowel in "aeiou":
                text = text.replace(f" {a} {vowel}", f" {a}n {vowel}")
                if text.startswith(f"{a} {vowel}"):
                    text = f"{a}n {text[2:]}"
        # After a full stop a pronoun is written with a capital.
        out, start = [], True
        for c in text:
            out.append(c.upper() if start and c.isalpha() else c)
            if c.isalpha():
                start = False
            elif c in ".!?":
                start = True
            elif c == '"':
                # What follows the end of a question asked aloud is who asked it.
                start = start and (out.count('"') % 2 == 1 or out[-2] == ".")
            elif c not in " '\n":
                start = False
        return "".join(out)

    def opening(self) -> str:
        return self.say(
            "There was once a {work} who lived near {place}. {his} name was {name}.",
            "Once upon a time there was a {child} named {name}, who lived in a small house near {place}.",
            "{name} was a {work} and had a house near {place}.",
            "Near {place} lived a {work} named {name}, who had a {nature} {animal}.",
            "{name} the {work} lived alone with a {nature} {animal}.",
            "Many years ago a {work} named {name} came to live near {place}.",
            "{name} had a {kin} named {other}, and the two of them lived near {place}.",
            "The {work} had a {child} named {name}, who was never afraid of anything.",
            "{when} {name} the {work} went down to {place}.",
            "In a house near {place} lived {name}, {his} {kin} and a {nature} {animal}.",
        )

    def weather(self) -> str:
        return self.say(*WEATHER)

    def day(self) -> str:
        return self.say(
            "Every morning {name} opened the window and looked out to see what the weather would do.",
            "Every day {he} worked from morning till night, and in the evening {he} sat by the fire.",
            "{he} had little money, but {he} always had {food} in the house.",
            "{he} got up early, lit the fire and made some tea.",
            "{name} liked the quiet hours best, when the work was done and the kettle sang.",
            "{he} was not rich, but {he} was {glad} with what {he} had.",
            "For breakfast {he} ate {food}, and for supper {more}.",
            "{name} swept the floor, carried in the wood and fed the {animal}.",
        )

    def loss(self) -> list[str]:
        return [
            self.say(
                "{when} {name} saw that the {looks} {thing} was gone.",
                "{when} the {looks} {thing} was not in its place.",
                "But one day {name} could not find the {looks} {thing}.",
                "{name} wanted to take the {looks} {thing} along, but it was not there.",
            ),
            self.say(
                "{he} looked {there}, but it was not there. {he} looked {where}, and it was not there either.",
                "{he} looked everywhere, even {there}, and found nothing but dust.",
                "{he} searched the whole house and asked everyone {he} met.",
                "{he} turned the room upside down and found {number} buttons and an old coin, but no {thing}.",
            ),
            self.say(
                "\"Have you seen my {thing}?\" {he} asked {his} {kin}.",
                "\"Who has taken my {thing}?\" {he} said to the {animal}, but the {animal} said nothing.",
                "\"A {thing} does not walk away,\" said {his} {kin} {other}. \"Where did you see it last?\"",
                "\"Perhaps the {animal} knows,\" said {other}.",
            ),
            self.say(
                "Then the {animal} got up, went out of the door and stopped {there}. There lay the {thing}.",
                "In the end {he} sat down {there}, and there it was, right beside {him}.",
                "At last {other} found it {there}, where {name} had put it the day before.",
                "The next day the {animal} came home with the {thing}, and nobody ever learned where it had been.",
                "When evening came, {he} saw something shine {where}. It was the {thing}.",
            ),
        ]

    def visit(self) -> list[str]:
        return [
            self.say(
                "{when} someone knocked at the door. It was {other}, who had walked all day.",
                "{when} a stranger stood at the gate and asked for a glass of water.",
                "{when} {other} came up the path with a {looks} {thing} under one arm.",
                "{when} a {nature} {animal} came to the door and would not go away.",
            ),
            self.say(
                "\"Come in,\" said {name}. \"Have some {food}; the fire is warm.\"",
                "{name} opened the door wide and put another plate on the table.",
                "\"You must be tired,\" said {name}. \"Sit down and eat some {food}.\"",
                "At first {name} was {sad}, for there was not much to eat, but {he} shared it all the same.",
            ),
            self.say(
                "They ate {food} and talked until the candle was low.",
                "They sat by the fire, and nobody said much, and it was good so.",
                "After supper they told each other of the sea and of the places they had seen.",
                "The guest ate {number} plates of {food} and fell asleep in the chair.",
            ),
            self.say(
                "In the morning the guest was gone, and on the table lay a {looks} {thing}.",
                "In the morning they said goodbye like old friends.",
                "From that day on there were always two cups on the table.",
                "\"Next time you must come to me,\" was the answer, \"and I will make the {more}.\"",
            ),
        ]

    def journey(self) -> list[str]:
        return [
            self.say(
                "{when} {name} set out to bring a {thing} to {his} {kin}, who lived on the other side of the hill.",
                "{when} {name} took a {looks} {thing} and some {food} and went to see the sea.",
                "{when} {name} rowed out in a small boat to catch some fish.",
                "{when} {he} had to go to town, for there was nothing to eat in the house.",
            ),
            self.say(
                "The road was long, and the {animal} went ahead.", "The {animal} came too, although nobody had asked it.",
                "{he} walked for {number} hours and met no one but a {nature} {animal}.",
                "After {number} miles {he} sat down {there} and ate the {food}.",
            ),
            self.say(
                "Then it began to rain, and {he} lost the way.", "When it grew dark, {he} heard a voice {where}.",
                "On the bridge stood {other}, who asked, \"Where are you going with that {thing}?\"",
                "Half way there the {thing} broke, and {he} was very {sad}.",
            ),
            self.say(
                "\"Do not be afraid,\" said {other}. \"I know the way.\"",
                "{name} waited until the rain was over and then went on.",
                "{he} thought for a while, and then {he} laughed and went on.",
                "The {animal} knew the way and led {him} safely home.",
            ),
            self.say(
                "Late at night {he} came home, {sad} and wet, and the {animal} was waiting at the door.",
                "{he} came there before night, and they were all very {glad}.",
                "At home there was light in the window, and the soup was still warm.",
                "It was a good day, and {he} told everyone about it for {number} weeks.",
            ),
        ]

    def bargain(self) -> list[str]:
        return [
            self.say(
                "{when} {name} found a {looks} {thing} {there}.", "{when} {name} bought a {looks} {thing} for {number} coins.",
                "{when} {his} {kin} gave {him} a {looks} {thing}.",
            ),
            self.say(
                "It was not worth much, but {he} liked it from the first moment.",
                "{he} cleaned it, held it up to the light and put it {where}.",
                "Nobody knew what it was good for.", "\"What will you do with it?\" asked {other}. \"I do not know yet,\" said {name}.",
            ),
            self.say(
                "Soon the neighbors came to see the {thing}, and each of them knew better what to do with it.",
                "The {animal} sat down in front of it and looked at it for a long time.",
                "{other} wanted to have it and offered {number} baskets of {food} for it.",
                "A rich man came by and wanted to buy it, but {name} shook {his} head.",
            ),
            self.say(
                "\"No,\" said {name}, \"some things are not for sale.\"",
                "In the end {he} gave it to {other}, who needed it more.",
                "So {he} kept it, and it stands in {his} window to this day.",
                "The next year {he} gave it away, and it came back the year after.",
            ),
        ]

    def quarrel(self) -> list[str]:
        return [
            self.say(
                "{when} {name} and {other} had a quarrel about a {thing}.",
                "{when} the {animal} ate all the {food}, and {name} was {sad}.",
                "{when} {other} said that {name} could not even boil an egg.",
            ),
            self.say(
                "\"It is mine,\" said {name}. \"It was mine before it was yours,\" said {other}.",
                "\"I will never speak to you again,\" said {name}, and {he} shut the door.",
                "They did not speak for {number} days, and the {animal} went from one to the other.",
                "{name} sat {there} and thought about it all afternoon.",
            ),
            self.say(
                "But it is dull to be angry alone.", "Then the rain came through the roof, and they had to mend it together.",
                "On the third day {other} brought a plate of {food} and put it on the step.",
                "The {animal} lay down between them and would not move.",
            ),
            self.say(
                "\"I was wrong,\" said {name}. \"So was I,\" said {other}.", "Then they both laughed, and all was well again.",
                "Nobody knew any more how it had begun.", "They shared the {food}, and the {animal} got a piece too.",
            ),
        ]

    def text(self) -> str:
        start = [self.opening(), self.day()] if self.dice.random() < 0.7 else [self.opening()]
        if self.dice.random() < 0.75:
            start.insert(self.dice.randrange(len(start) + 1), self.weather())
        plot = self.pick([self.loss, self.visit, self.journey, self.bargain, self.quarrel])()
        if self.dice.random() < 0.3:
            plot.insert(self.dice.randrange(1, len(plot)), self.weather())
        if self.dice.random() < 0.4:
            plot.append(self.pick(SENSE))
        between = "\n\n" if self.dice.random() < 0.3 else " "
        return between.join(" ".join(sentences) for sentences in (start, plot))


def stories(count: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    return [Story(dice).text() for _ in range(count)]


if __name__ == "__main__":
    print("\n\n---\n\n".join(stories(12, 7)))
