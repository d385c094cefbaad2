"""A tokenizer of words, small enough to be built in a test, with the special tokens that a model's has."""

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

WORDS = ["[UNK]", "<s>", "</s>", "hello", "world", "Q", ":", "A", "x", "system", "user", "assistant"]
BOS = 1


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def tiny_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in ("<s>", "</s>")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer
