"""Texts that come from outside, before they are made tokens."""

from llava.inference.streaming import Event, PromptTooLong

_PIECE = 2**14  # characters


def refuse_endless(text: str, tokenizer, context: int, cancelled: Event | None = None) -> None:
    """Raise PromptTooLong for a text of far more tokens than the context has, having seen only the first of them.

    It is read in pieces. Where it is cut, tokens of the whole text may be others; that cannot make up half of them, so
    a text that is refused at twice the context cannot fit. It ends early when `cancelled` is set.
    """
    count = 0
    for start in range(0, len(text) if len(text) > _PIECE else 0, _PIECE):
        if cancelled is not None and cancelled.is_set():
            return
        count += len(tokenizer(text[start : start + _PIECE], add_special_tokens=False, verbose=False).input_ids)
        if count > 2 * context:
            raise PromptTooLong(f"the text is longer than the context: {context} tokens, the text has over {count}")
