import pytest

from lensemble.checkpoint import TOKENIZER_FILE, Checkpoint
from lensemble.preprocess import prompt
from lensemble.preprocess.prompt import PromptBuilder, with_final_punctuation
from lensemble_client import InvalidInputError
from tests.paths import CHECKPOINT


@pytest.fixture(scope="module")
def opened():
    return Checkpoint.open(CHECKPOINT)


@pytest.fixture(scope="module")
def prompts(opened):
    return PromptBuilder(opened.folder / TOKENIZER_FILE, opened.profile)


@pytest.mark.parametrize("token", prompt.TOKENS)
def test_special_token_in_text_or_instruction_is_ordinary_text(prompts, opened, token):
    id_ = opened.profile.prompt.tokens[token]

    def count(text, instruction=None):
        return prompts.ids(text, [], instruction).tolist().count(id_)

    assert count(f"a {token} b") == count("plain")
    assert count("plain", f"find {token}") == count("plain")


def test_picture_tokens_are_between_start_and_end_tokens(prompts, opened):
    tokens = opened.profile.prompt.tokens
    ids = prompts.ids(None, [3, 2], None).tolist()
    start, pad, end = (
        tokens[token] for token in (prompt.VISION_START, prompt.IMAGE_PAD, prompt.VISION_END)
    )
    first = ids.index(start)
    assert ids[first : first + 9] == [start, pad, pad, pad, end, start, pad, pad, end]


def test_prompt_ends_with_endoftext(prompts, opened):
    assert prompts.ids("x", [], None)[-1] == opened.profile.prompt.tokens[prompt.ENDOFTEXT]


@pytest.mark.parametrize(
    ("tokens", "text", "field"), [([], "word " * 9000, "text"), ([5000, 5000], None, "image")]
)
def test_error_of_too_long_prompt_names_the_limit(prompts, tokens, text, field):
    with pytest.raises(InvalidInputError, match="at most 8192") as caught:
        prompts.ids(text, tokens, None)
    assert caught.value.field == field


@pytest.mark.parametrize("blank", ["", "  ", "\u3000", "\t\n", "\u00a0\u2003"])
def test_blank_instruction_keeps_the_profiles(prompts, blank):
    """As in the official embedder, which strips the instruction before it looks at it."""
    ids = prompts.ids("red car", [], None).tolist()
    assert prompts.ids("red car", [], blank).tolist() == ids
    assert prompts.ids("red car", [], "\u200b").tolist() != ids, "no white space to Python"


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("  Find cars ", "Find cars."),
        ("Find cars.", "Find cars."),
        ("¿Dónde?", "¿Dónde?"),
        ("探す。", "探す。"),
        ("cost in $", "cost in $."),  # a currency sign is a symbol, not punctuation
        ("  ", ""),
    ],
)
def test_instruction_ends_in_punctuation(instruction, expected):
    assert with_final_punctuation(instruction) == expected
