"""TextVQA's recipe, as a user calls it."""

import json

from tests.conftest import picture, write_jsonl
from tests.test_scripts import run_recipe


def test_textvqa_runs_end_to_end(checkpoints, tmp_path):
    folder = tmp_path / "textvqa"
    (folder / "train_images").mkdir(parents=True)
    questions, labels = [], []
    for i, image in enumerate("aab"):
        picture(seed=i).save(folder / "train_images" / f"{image}.jpg")
        text = f"What is {i}?\nReference OCR token: A\nAnswer."
        questions.append({"question_id": image, "image": f"{image}.jpg", "text": text, "category": "default"})
        labels.append({"question_id": i, "image_id": image, "question": f"what is {i}?", "answers": ["x"] * 10})
    write_jsonl(folder / "llava_textvqa_val_v051_ocr.jsonl", questions)
    settings = {"CKPT": checkpoints(), "DATA_DIR": tmp_path, "OUT_DIR": tmp_path / "out", "CUDA_VISIBLE_DEVICES": ""}
    missing = run_recipe("v1_5/eval/textvqa.sh", 16, **settings)
    assert missing.returncode == 2
    assert "TextVQA_0.5.1_val.json is missing: see EVAL.md" in missing.stderr
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": labels[::-1]}))
    done = run_recipe("v1_5/eval/textvqa.sh", 16, **settings)
    assert done.returncode == 0, done.stderr
    assert "Samples: 3" in done.stdout
    name = f"textvqa/answers/llava_textvqa_val_v051_ocr/{checkpoints().name}/n_16/r_0.5/merge.score.json"
    assert json.loads((tmp_path / "out" / name).read_text())["samples"] == 3
