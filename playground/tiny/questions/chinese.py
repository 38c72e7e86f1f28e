"""Questions in Chinese, for MMBench-CN."""

from dataclasses import replace

from playground.tiny.questions.base import Question

SHORT_CN = "请直接回答。"
LETTER_CN = "请直接回答选项字母。"
CHINESE = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "orange": "橙色",
    "purple": "紫色",
    "black": "黑色",
    "brown": "棕色",
    "circle": "圆形",
    "square": "方形",
    "triangle": "三角形",
    "star": "星形",
    "heart": "心形",
    "cross": "十字形",
    "ring": "环形",
    "diamond": "菱形",
    "moon": "月形",
    "arrow": "箭头",
    "plain": "纯色",
    "gradient": "渐变",
    "striped": "条纹",
    "noisy": "噪点",
    "cluttered": "杂乱",
}


def in_chinese(question: Question) -> Question | None:
    """The question in Chinese; None if its kind has no translation."""
    words = question.text.rstrip("?").split()
    if question.answer not in CHINESE:
        return None
    if question.text.startswith("What color is the") and words[-1] in CHINESE:
        text = f"{CHINESE[words[-1]]}是什么颜色？"
    elif question.text.startswith("What shape is the"):
        text = f"{CHINESE[words[4]]}的物体是什么形状？" if words[4] in CHINESE and words[3] == "the" else None
    elif question.kind == "background":
        text = "背景是什么样的？"
    else:
        text = None
    if text is None:
        return None
    options = tuple(CHINESE[option] for option in question.options)
    return replace(question, text=text, answer=CHINESE[question.answer], options=options)
