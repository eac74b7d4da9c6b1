"""The prompts that Qwen2-VL and SmolVLM share (paper, appendix)."""

from collections.abc import Sequence

from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS, Conversation

_CAPTION_START = "This is a photo of "


class PhotoPromptVlm(Vlm):
    """A family that is asked about a photo and answers in a sentence."""

    def caption(self, phrase: str) -> Conversation:
        """See ``Vlm.caption``."""
        phrase, start = phrase.strip(), len(_CAPTION_START)
        return Conversation("What is this photo?", f"{_CAPTION_START}{phrase}.", (start, start + len(phrase)))

    def question(self, options: Sequence[str], label: str) -> Conversation:
        """See ``Vlm.question``."""
        listed = " ".join(f"{name}) {option}" for name, option in zip(OPTION_LABELS, options, strict=False))
        user = f"What is shown in this photo?\nChoose one of the options:\n{listed}"
        return Conversation(user, f"{label}.", (0, len(label)))
