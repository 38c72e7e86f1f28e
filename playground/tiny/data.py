"""Write the training data of the tiny model: python -m playground.tiny.data --output DIR --scenes N

`images/` gets one picture of each scene. The other files hold one conversation about each scene, in LLaVA's format:

- `lookup.json`: the simplest questions, then a list of the scene's content.
- `finetune.json`: questions of all kinds.
- `letters.json`: mostly multiple choice, answered with the option's letter. For the end of the training.
- `words.json`: the same conversations, answered with the option itself.
"""

import json
import random
from multiprocessing import Pool
from pathlib import Path

from tqdm import tqdm

from llava.cli import run_command
from playground.tiny import questions as q
from playground.tiny.drawing import JPEG_QUALITY, draw_scene
from playground.tiny.options import at_least, command_parser, make_folder
from playground.tiny.questions import Maker, Question, ask
from playground.tiny.scenes import COLORS, SHAPES, WORDS, Scene, training_scenes

# Groups of questions that the model learns quickly one group at a time, and hardly at all in the mixture.
DRILLS: tuple[tuple[Maker, ...], ...] = (
    (q.has_shape, q.has_thing, q.has_both),
    (q.is_color, q.which_color, q.is_word, q.has_color_of),
    (q.where, q.which_side, q.which_relation, q.is_related),
    (q.is_larger, q.same_color, q.is_count, q.is_sum, q.count_kind),
)
# Groups that the model still has to practise at the end of the training.
LATE_DRILLS: tuple[tuple[Maker, ...], ...] = (
    (q.is_word, q.is_translation, q.is_output, q.what_word),
    (q.is_count, q.is_sum, q.count_all, q.count_kind),
    (q.is_related, q.which_relation, q.what_is_beside, q.has_color_of),
)
Turns = list[tuple[str, str]]


def short_answer(question: Question) -> str:
    """The answer to a question that asks for one word or phrase. As in LLaVA's data, yes and no have a capital."""
    return question.answer.capitalize() if question.answer.lower() in ("yes", "no") else question.answer


def hint(scene: Scene) -> str:
    """A line about the picture that precedes the question, like the hints of ScienceQA and MMBench."""
    return f"The shapes are on a {scene.background} background."


def short_turns(scene: Scene, rng: random.Random, makers: tuple[Maker, ...] = q.SHORT_ANSWERS) -> Turns:
    """Twelve questions with short answers. The first also says how to answer."""
    turns = []
    for _ in range(12):
        question = ask(makers, scene, rng)
        turns.append((question.text, short_answer(question)))
    text, answer = turns[0]
    ocr = "\nReference OCR token: " if ask((q.what_word,), scene, rng) and rng.random() < 0.3 else ""
    return _with_instruction(q.SHORT, [(f"{text}{ocr}", answer), *turns[1:]])


def lookup_turns(scene: Scene, rng: random.Random) -> Turns:
    """Six of the simplest questions, then a list or a description of the scene's content.

    In a list the name of an object directly precedes its attributes, so the model learns to find an object in the
    picture by the word at hand. A question needs one step more, and the model hardly learns that step without lists.
    The list comes last, because a later question could be answered from the list instead of the picture.
    """
    last = rng.choices((_list_objects, _list_presence, _list_numbers, _description), (40, 25, 10, 25))[0]
    return [*short_turns(scene, rng, q.LOOKUPS)[:6], last(scene, rng)]


def list_turns(scene: Scene, rng: random.Random) -> Turns:
    """Lists, then six of the simplest questions: how the lessons of playground.tiny.language_model begin."""
    turns = [_list_objects(scene, rng) for _ in range(3)] + [_list_presence(scene, rng), _list_numbers(scene, rng)]
    rng.shuffle(turns)
    return [*turns, *short_turns(scene, rng, q.LOOKUPS)[:6]]


def _list_objects(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """The shape, color, size and place of all objects, and of the sign with its word as size, in random order."""
    rows = [{name: getattr(thing, name) for name in ("shape", "color", "size", "place")} for thing in scene.things]
    if scene.sign is not None:
        sign = scene.sign
        rows.append({"shape": "sign", "color": sign.color, "size": sign.word, "place": sign.place})
    order = rng.sample(("shape", "color", "size", "place"), 4)
    rng.shuffle(rows)
    return f"List {', '.join(order)}.", "; ".join(" ".join(row[name] for name in order) for row in rows)


def _list_presence(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Whether each of some shapes, colors and words is present."""
    names = [*SHAPES, *COLORS, *(WORDS if scene.sign is not None else ())]
    present = {getattr(thing, kind) for thing in scene.things for kind in ("shape", "color")}
    present |= {scene.sign.word} if scene.sign is not None else set()
    unclear = {scene.sign.color} if scene.sign is not None else set()
    asked = rng.sample(sorted(present), min(3, len(present)))
    asked += rng.sample([name for name in names if name not in present | unclear], 3)
    rng.shuffle(asked)
    return "List which are there.", "; ".join(f"{name} {'yes' if name in present else 'no'}" for name in asked)


def _list_numbers(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """The number of objects of some shapes, of which three are absent."""
    shapes = [thing.shape for thing in scene.things]
    asked = rng.sample(sorted(set(shapes)), len(set(shapes)))[:3]
    asked += rng.sample([shape for shape in SHAPES if shape not in shapes], 3)
    rng.shuffle(asked)
    return "List how many are there.", "; ".join(f"{shape} {shapes.count(shape)}" for shape in asked)


def drill_turns(scene: Scene, rng: random.Random, drill: int | None = None) -> Turns:
    """Twelve questions that practise one skill, `DRILLS[drill]` or a random one."""
    makers = rng.choice(DRILLS) if drill is None else DRILLS[drill]
    return short_turns(scene, rng, (*makers, q.what_background))


def choice_turns(scene: Scene, rng: random.Random) -> Turns:
    """Five multiple-choice questions, answered with a letter; three in ten conversations are in Chinese."""
    turns = []
    chinese = rng.random() < 0.3
    while len(turns) < 5:
        question = _ask_in_chinese(scene, rng) if chinese else ask((*q.OPEN, q.what_sign_color), scene, rng)
        choice = q.as_choice(question, rng) if question is not None else None
        if choice is not None:
            lines = f"{hint(scene)}\n{choice.lines}" if rng.random() < 0.15 and not chinese else choice.lines
            turns.append((f"{lines}\n{q.LETTER_CN if chinese else q.LETTER}", choice.answer))
    return turns


def unsure_turns(scene: Scene, rng: random.Random) -> Turns:
    """Up to five questions, of which about half cannot be answered."""
    turns = []
    for _ in range(5):
        if rng.random() < 0.5:
            question = q.unanswerable(scene, rng)
        else:
            question = ask((q.what_color, q.what_word, q.what_shape, q.what_sign_color), scene, rng)
        if question is not None:
            turns.append((f"{question.text}\n{q.UNANSWERABLE}\n{q.SHORT}", short_answer(question)))
    return turns


def _description(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return rng.choice(("Describe the image.", "What is in the image?")), q.describe(scene)


def description_turns(scene: Scene, rng: random.Random) -> Turns:
    """A request for a description."""
    return [_description(scene, rng)]


def fact_turns(rng: random.Random) -> Turns:
    """Five multiple-choice questions that need no picture."""
    choices = [q.as_choice(q.fact(None, rng), rng) for _ in range(5)]
    return [(f"{choice.lines}\n{q.LETTER}", choice.answer) for choice in choices]


def fact_short_turns(rng: random.Random) -> Turns:
    """Eight questions that need no picture, with short answers."""
    facts = [q.fact(None, rng) for _ in range(8)]
    return _with_instruction(q.SHORT, [(fact.text, fact.answer) for fact in facts])


def chinese_turns(scene: Scene, rng: random.Random) -> Turns:
    """Up to eight questions in Chinese, with short answers."""
    asked = [_ask_in_chinese(scene, rng) for _ in range(8)]
    return _with_instruction(
        q.SHORT_CN, [(question.text, question.answer) for question in asked if question is not None]
    )


def _ask_in_chinese(scene: Scene, rng: random.Random) -> Question | None:
    question = ask((q.what_color, q.what_shape, q.what_background), scene, rng)
    return None if question is None else q.in_chinese(question)


def _with_instruction(instruction: str, turns: Turns) -> Turns:
    """The turns, with the instruction of how to answer in the first."""
    return [(f"{turns[0][0]}\n{instruction}", turns[0][1]), *turns[1:]]


def option_turns(scene: Scene) -> tuple[bool, Turns]:
    """A conversation for the end of the training: whether it is about the picture, and its turns."""
    rng = random.Random(f"options {scene.seed}")
    form = rng.choices(("choice", "facts", "short facts", "chinese", "drill", "any"), (40, 8, 6, 10, 14, 22))[0]
    if "facts" in form:
        return False, fact_turns(rng) if form == "facts" else fact_short_turns(rng)
    if form == "any":
        return conversation(scene)
    if form == "drill":
        makers = rng.choice(LATE_DRILLS[scene.sign is None :])  # the first group needs a sign
        return True, short_turns(scene, rng, (*makers, q.has_thing))
    return True, choice_turns(scene, rng) if form == "choice" else chinese_turns(scene, rng)


def in_words(turns: Turns) -> Turns:
    """The turns, with the option itself as the answer instead of its letter."""
    return [(text, q.options_of(text).get(answer, answer)) for text, answer in turns]


def conversation(scene: Scene) -> tuple[bool, Turns]:
    """A conversation of all kinds: whether it is about the picture, and its turns."""
    rng = random.Random(f"conversation {scene.seed}")
    if rng.random() < 0.05:
        return False, fact_turns(rng)
    forms = (short_turns, lookup_turns, choice_turns, unsure_turns, description_turns)
    return True, rng.choices(forms, (46, 28, 14, 6, 6))[0](scene, rng)


def record(scene: Scene, turns: Turns, has_image: bool = True) -> dict:
    """One record in LLaVA's training format."""
    messages = []
    for i, (text, answer) in enumerate(turns):
        messages.append({"from": "human", "value": f"<image>\n{text}" if has_image and i == 0 else text})
        messages.append({"from": "gpt", "value": answer})
    image = {"image": f"{scene.seed:08d}.jpg"} if has_image else {}
    return {"id": f"{scene.seed:08d}", **image, "conversations": messages}


def _write_image(task: tuple[Scene, Path]) -> None:
    scene, folder = task
    path = folder / f"{scene.seed:08d}.jpg"
    if not path.exists():
        part = path.with_suffix(".part")
        draw_scene(scene).save(part, "JPEG", quality=JPEG_QUALITY)
        part.replace(path)


def write(output: Path, number: int) -> None:
    """Write the data of the first `number` training scenes. Pictures that exist are not drawn again."""
    scenes = list(training_scenes(number))
    images = output / "images"
    make_folder(images)
    with Pool() as pool:
        tasks = pool.imap_unordered(_write_image, ((scene, images) for scene in scenes), chunksize=64)
        for _ in tqdm(tasks, total=number, desc="drawing", unit="picture", mininterval=2):
            pass
    lookups, conversations, words, letters = [], [], [], []
    for scene in tqdm(scenes, desc="asking", unit="scene", mininterval=2):
        has_image, turns = conversation(scene)
        conversations.append(record(scene, turns, has_image))
        # Some of the conversations that come later, so that their form is not new then.
        rng = random.Random(f"lookup {scene.seed}")
        easy = record(scene, drill_turns(scene, rng) if rng.random() < 0.4 else lookup_turns(scene, rng))
        lookups.append(conversations[-1] if scene.seed % 6 == 0 else easy)
        has_image, turns = option_turns(scene)
        words.append(record(scene, in_words(turns), has_image))
        letters.append(record(scene, turns, has_image))
    files = {"lookup.json": lookups, "finetune.json": conversations, "words.json": words, "letters.json": letters}
    for name, records in files.items():
        (output / name).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


def main() -> None:
    parser = command_parser("data", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the data")
    parser.add_argument("--scenes", type=at_least(1), required=True, help="training scenes")
    args = parser.parse_args()
    write(args.output, args.scenes)


if __name__ == "__main__":
    run_command(main)
