"""A model's tokenizer, read from its file and checked against the model."""

from tokenizers import Tokenizer

from prfaas.engine.model_directory import ModelFiles, WeightsError


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """Blocks: one of 262,144 tokens takes about a second. Raises WeightsError for a file that holds no tokenizer of the model."""
    try:
        tokenizer = Tokenizer.from_file(str(files.tokenizer))
    except Exception as error:  # the library raises nothing more particular
        raise WeightsError(f"{files.tokenizer} is no tokenizer that the library `tokenizers` can read: {error}") from error
    # Of the added ones, a model of text alone may lack some: Gemma 3's stands for an image.
    tokens = tokenizer.get_vocab_size(with_added_tokens=False)
    if tokens > files.vocabulary_tokens:
        raise WeightsError(
            f"{files.tokenizer} has {tokens} tokens, and the model's `vocab_size` is {files.vocabulary_tokens}: "
            "it is another model's"
        )
    return tokenizer
