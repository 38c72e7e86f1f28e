"""Upstream's place for VQA accuracy, as its converters import it; `vqa_accuracy` has the rules."""

from llava.errors import InputError
from llava.eval.benchmarks.vqa_accuracy import normalize_answer, vqa_accuracy


class EvalAIAnswerProcessor:
    """Calling it gives the form in which the VQA challenge compares answers."""

    def __call__(self, item: str) -> str:
        return normalize_answer(item)


class TextVQAAccuracyEvaluator:
    """VQA accuracy of a list of answers."""

    def __init__(self) -> None:
        self.answer_processor = EvalAIAnswerProcessor()

    def eval_pred_list(self, pred_list: list[dict]) -> float:
        """The mean VQA accuracy, in [0, 1], of records with `pred_answer` and ten `gt_answers`.

        Raises InputError, naming the record, if one has another number of annotators, and for an empty list.
        """
        if not pred_list:
            raise InputError("there are no answers to score")
        for number, record in enumerate(pred_list, start=1):
            if len(record["gt_answers"]) != 10:
                raise InputError(f"record {number} has {len(record['gt_answers'])} annotators' answers, not 10")
        return sum(vqa_accuracy(record["pred_answer"], record["gt_answers"]) for record in pred_list) / len(pred_list)
